"""Retrieval both ways, on a model that can be worked out by hand and, for the pipeline, on COCO with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fna.data.base import Captioned, Dataset
from fna.data.coco import CocoCaptions
from fna.errors import UserError
from fna.models.base import Model
from fna.models.open_clip import OpenClipModel
from fna.tasks.base import Run
from fna.tasks.retrieval import Retrieval


def scores(outcome: Any) -> dict[str, float]:
    sums = {name: each.sum(axis=0) for name, each in outcome.counts.items()}
    return {name: round(float(value), 2) for name, value in Retrieval().metrics(sums).items()}


def test_by_hand(clip: Model, captioned: Dataset[Captioned]) -> None:
    outcome = Retrieval().evaluate(clip, captioned, Run(batch_size=2))
    # "green thing" finds the green image first, then red and blue alike; the other captions find theirs. The red image finds "red",
    # the blue one "blue"; the green one finds "green thing" and "so green" alike, of which the second comes first here.
    assert scores(outcome) == {"t2i_r1": 75, "t2i_r5": 100, "t2i_r10": 100, "i2t_r1": 100, "i2t_r5": 100, "i2t_r10": 100}
    assert outcome.labels == ["red", "so green", "blue"]
    assert outcome.truths == ["red", "so green", "blue"]
    assert outcome.decisions.tolist() == [0, 2, 3]
    assert np.allclose(np.linalg.norm(outcome.outputs, axis=1), 1)
    assert outcome.counts["captions"].tolist() == [2, 1, 1]
    assert outcome.counts["t2i_hits"].tolist() == [[1, 2, 2], [1, 1, 1], [1, 1, 1]]


def test_metrics_keep_leading_axes(clip: Model, captioned: Dataset[Captioned]) -> None:
    counts = Retrieval().evaluate(clip, captioned, Run(batch_size=2)).counts
    weights = np.array([[1, 1, 1], [2, 1, 0]])
    found = Retrieval().metrics({name: np.tensordot(weights, each, axes=1) for name, each in counts.items()})
    assert found["t2i_r1"].tolist() == [75, 60]


def test_texts_are_encoded_once_for_the_same_weights(clip: Model, captioned: Dataset[Captioned]) -> None:
    calls: list[int] = []
    encode = clip.encode_text
    assert encode is not None
    model = replace(clip, encode_text=lambda sentences: calls.append(len(sentences)) or encode(sentences))
    task = Retrieval()
    first = task.evaluate(model, captioned, Run(batch_size=2))
    assert np.array_equal(task.evaluate(model, captioned, Run(batch_size=3)).outputs, first.outputs)
    assert calls == [4]
    task.evaluate(replace(model, weights=replace(clip.weights, digest="1" * 64)), captioned, Run(batch_size=2))
    assert calls == [4, 4]


def test_a_prompt_wraps_every_caption(clip: Model, captioned: Dataset[Captioned]) -> None:
    heard: list[str] = []
    encode = clip.encode_text
    assert encode is not None
    model = replace(clip, encode_text=lambda sentences: heard.extend(sentences) or encode(sentences))
    Retrieval(prompt="a photo of {}").evaluate(model, captioned, Run(batch_size=2))
    assert heard[0] == "a photo of red"
    with pytest.raises(ValueError, match=r"put \{\} where"):
        Retrieval(prompt="a photo")


def test_a_caption_that_equals_ones_own_is_as_right(clip: Model, captioned: Dataset[Captioned]) -> None:
    """Two red images with the same sentence: whichever is found first, both are right; not so with a sentence of one alone."""
    red = captioned.examples[0].image
    data = replace(captioned, examples=[Captioned(name, red, ("red",)) for name in ("first", "second")])
    assert set(scores(Retrieval().evaluate(clip, data, Run(batch_size=2))).values()) == {100}
    for other in ("Red", "red ", "  RED"):  # which no CLIP tells from it
        data = replace(captioned, examples=[Captioned("first", red, ("red",)), Captioned("second", red, (other,))])
        same = replace(clip, encode_text=lambda sentences: clip.encode_text([text.lower() for text in sentences]))
        assert set(scores(Retrieval().evaluate(same, data, Run(batch_size=2))).values()) == {100}
    data = replace(captioned, examples=[Captioned(name, red, (f"red {name}",)) for name in ("first", "second")])
    assert {"t2i_r1": 50, "i2t_r1": 50}.items() <= scores(Retrieval().evaluate(clip, data, Run(batch_size=2))).items()


def test_a_collapsed_model_scores_chance(clip: Model, captioned: Dataset[Captioned]) -> None:
    red = captioned.examples[0].image
    told = [Captioned(str(image), red, tuple(f"caption {image} {place}" for place in range(5))) for image in range(60)]
    same = replace(clip, encode_text=lambda sentences: torch.ones(len(sentences), 3))
    found = scores(Retrieval().evaluate(same, replace(captioned, examples=told), Run(batch_size=20)))
    for way in ("t2i", "i2t"):
        assert [found[f"{way}_r{k}"] for k in (1, 5, 10)] == pytest.approx([100 / 60, 500 / 60, 1000 / 60], rel=0.3)


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{} of {kind}", "{0}", "{{}}", "{}}", 7])
def test_a_prompt_with_another_brace_is_refused_when_it_is_made(prompt: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.prompt=.*: put \{\} where the caption goes, once"):
        Retrieval(prompt=prompt)


def test_a_skipped_image_takes_its_captions_along(clip: Model, captioned: Dataset[Captioned]) -> None:
    captioned.examples[1].image.write_text("broken")
    outcome = Retrieval().evaluate(clip, captioned, Run(batch_size=2))
    assert (outcome.keys, len(outcome.skipped)) == (["red", "blue"], 1)
    assert outcome.counts["captions"].tolist() == [2, 1]
    assert outcome.decisions.tolist() == [0, 2]
    assert outcome.labels == ["red", "blue"]


def test_what_cannot_be_searched(clip: Model, captioned: Dataset[Captioned], labelled: Dataset[Any]) -> None:
    with pytest.raises(UserError, match="colours has no captions"):
        Retrieval().check(clip, labelled)
    with pytest.raises(UserError, match="eye has no text tower"):
        Retrieval().check(replace(clip, encode_text=None), captioned)


def test_coco_with_random_weights(shared_data: Path, tmp_path: Path) -> None:
    """The pipeline, not the score: chance is about 1 in 12."""
    import json

    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}})
    )
    model = OpenClipModel(name=f"local-dir:{tmp_path}", random=True).build(image_size=None, device="cpu", dtype="float32", seed=0)
    source = CocoCaptions(str(shared_data / "coco_mini"), "annotations/captions_val2017.json", "val2017", "val2017")
    outcome = Retrieval().evaluate(model, source.load(12), Run(batch_size=5))
    found = scores(outcome)
    assert (len(outcome.keys), outcome.counts["captions"].sum()) == (12, 60)
    assert all(found[f"{way}_r1"] <= found[f"{way}_r5"] <= found[f"{way}_r10"] <= 100 for way in ("t2i", "i2t"))


def test_captions_that_the_text_tower_reads_the_beginning_of_are_counted_in_a_note(clip: Model, tmp_path: Path) -> None:
    """Three long captions that differ in their ends alone are one text to a CLIP, whose recall would be no word of it."""
    real = OpenClipModel("zoo:clip_shapes", domain="generated").build(image_size=None, device="cpu", dtype="float32", seed=0)
    assert real.cut_texts is not None
    same = "a red circle beside a blue square " * 30
    captions = ["a red circle", same + "and a cat", same + "and a dog"]
    assert list(real.cut_texts(captions)) == captions[1:]
    assert real.encode_text is not None
    vectors = real.encode_text(captions)
    assert torch.equal(vectors[1], vectors[2])
    examples = [Captioned(str(place), tmp_path / "none.png", (caption,)) for place, caption in enumerate(captions)]
    data = Dataset("own", "none", "generated", "0", examples)
    for _ in range(2):
        Retrieval().check(real, data)
    first = f"(first: {captions[1][:60]} ...)"
    assert data.notes == [
        f"2 of 3 texts are longer than {real.name} reads: their ends are left out {first}; 2 of them are read the same as another "
        f"{first}, which no image can tell apart, and count as different texts"
    ]
    data = Dataset("own", "none", "generated", "0", examples[:1])
    Retrieval().check(real, data)
    assert data.notes == []
