"""The recipe of llava_shapes: its forward is transformers' own, its questions are even, a step's batch is of that step alone."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

from llava_shapes_batches import TURNS, Batch, Stage, Words, batch, questions  # noqa: E402
from llava_shapes_model import CLIP, SIZE, processor, tokenizer, tower, untrained  # noqa: E402
from train_llava_shapes import losses  # noqa: E402

from fna.data.scene_questions import KINDS  # noqa: E402
from fna.data.scenes import make_scene  # noqa: E402

STAGES = (Stage(size=96, scenes=2, talks=2, rate=1e-3, steps=3), Stage(size=SIZE, scenes=2, talks=3, rate=1e-3, steps=3))


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(tokenizer())


def test_the_tower_is_clip_shapes() -> None:
    import open_clip

    from fna.surgery.resolution import set_image_size

    clip = open_clip.create_model(f"local-dir:{CLIP}").eval()
    set_image_size(clip, SIZE)
    pixels = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        seen = tower(SIZE)(pixels).pooler_output @ clip.visual.proj
        torch.testing.assert_close(seen, clip.encode_image(pixels), rtol=1e-4, atol=1e-4)


def test_a_batch_depends_on_the_step_alone(words: Words) -> None:
    batch(STAGES, 0, words)
    for step in (1, 3):
        a, b = batch(STAGES, step, words), batch(STAGES, step, Words(tokenizer()))
        assert all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Batch))
    assert batch(STAGES, 3, words).pixels.shape[-1] == SIZE


def test_a_scene_read_once_is_what_transformers_reads_each_time(words: Words) -> None:
    """The loss of a batch, whose conversations share their picture, against the model's own forward on whole prompts."""
    torch.manual_seed(0)
    model = untrained(words.reads).eval()
    model.set_attn_implementation("eager")
    given = batch(STAGES, 3, words)
    with torch.no_grad():
        parts, _ = losses(model, tower(SIZE), words, given)
        total, count = 0.0, 0
        start = words("<s> USER:") + [words.reads.convert_tokens_to_ids("<image>")] * (SIZE // 8) ** 2
        for row, ids in enumerate(given.ids):
            told = ids[given.mask[row].bool()]
            whole = torch.cat([torch.tensor(start), told])[None]
            pixels = given.pixels[row // STAGES[1].talks][None]
            logits = model(input_ids=whole, pixel_values=pixels).logits[0, len(start) - 1 : -1]
            wanted = given.answers[row, : len(told)]
            total += float(F.cross_entropy(logits, wanted, reduction="sum"))
            count += int((wanted >= 0).sum())
    assert float(parts["answers"]) == pytest.approx(total / count, abs=1e-4)


def test_what_a_word_names_is_what_the_scene_holds(words: Words) -> None:
    given = batch(STAGES, 3, words)
    scene = make_scene(10_000_000 + 3 * 2)
    told = words.reads.convert_ids_to_tokens(given.ids[0].tolist())
    seen = 0
    for place, word in enumerate(told):
        for i, thing in enumerate(scene.things):
            if int(given.named[0, place]) >> i & 1:
                assert word in (thing.shape, thing.colour, thing.texture)
                seen += 1
    assert seen


def test_before_an_answer_the_thing_asked_about_is_looked_at(words: Words) -> None:
    """Where a question has one thing in it, every token of its answer is about that thing, and no other token is."""
    given = batch(STAGES, 3, words)
    checked = 0
    for row, kinds in enumerate(given.kinds):
        told = words.reads.convert_ids_to_tokens(given.ids[row].tolist())
        scene = make_scene(10_000_000 + 3 * 2 + row // STAGES[1].talks)
        begins = [0, *(i for i, word in enumerate(told) if word == "USER:"), len(told)]
        for turn, kind in enumerate(kinds):
            if KINDS[kind] not in ("colour", "place"):
                continue
            part = range(begins[turn], begins[turn + 1])
            shape = next(told[i - 1] for i in part if told[i] == "?")
            bit = sum(1 << i for i, thing in enumerate(scene.things) if thing.shape == shape)
            for i in part:
                if i + 1 < len(told):
                    assert int(given.asked[row, i]) & bit == (bit if given.turns[row, i + 1] == turn else 0)
            checked += 1
    assert checked


def test_questions_are_even_over_kinds_and_answers() -> None:
    random = Random(0)
    asked = [question for seed in range(300) for question in questions(make_scene(seed), 8 * TURNS, random)]
    kinds = Counter(question.kind for question in asked)
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) < 1.3 * min(kinds.values())
    said = Counter(question.answer for question in asked if question.kind == "yes/no")
    assert 0.8 < said["yes"] / said["no"] < 1.25


def test_a_prompt_is_read_as_it_was_trained(words: Words) -> None:
    from PIL import Image

    reads = processor(words.reads)
    made = reads(text="USER: <image>\nwhere is the star? ASSISTANT:", images=Image.new("RGB", (256, 256)), return_tensors="pt")
    ids = made["input_ids"][0].tolist()
    assert ids == words("<s> USER:") + [words.reads.convert_tokens_to_ids("<image>")] * 324 + words("where is the star? ASSISTANT:")
    assert words.reads.decode(words("at the top left </s>"), skip_special_tokens=True) == "at the top left"
