"""llava_shapes, the LLaVA that ships with fna: loadable by transformers alone, and what its card says."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fna.data.scene_drawing import draw
from fna.data.scene_files import scenes_of
from fna.data.scene_questions import KINDS, ask, candidates
from fna.data.scenes import make_scene

HOME = Path(__file__).parents[1] / "fna/models/zoo/llava_shapes"


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """As the card does it."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(HOME, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(HOME)


def test_the_weights_are_those_of_the_card() -> None:
    found = hashlib.sha256((HOME / "model.safetensors").read_bytes()).hexdigest()
    assert (HOME / "model.sha256").read_text().split() == [found, "model.safetensors"]
    assert found in (HOME / "card.md").read_text()
    assert sum(file.stat().st_size for file in HOME.iterdir()) < 15e6


def test_the_losses_of_the_first_200_steps_are_recorded() -> None:
    with (HOME / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows[:200]] == list(range(200))
    assert float(rows[-1]["answers"]) < float(rows[0]["answers"]) / 4


def test_its_tower_is_that_of_clip_shapes(loaded: tuple[Any, Any]) -> None:
    """Frozen: the same image gives the same embedding, but for the rounding of 16 bits."""
    import open_clip

    from fna.surgery.resolution import set_image_size

    clip = open_clip.create_model(f"local-dir:{HOME.parent / 'clip_shapes'}").eval()
    set_image_size(clip, 144)
    pixels = torch.rand(2, 3, 144, 144) * 2 - 1
    with torch.no_grad():
        ours = loaded[0].model.vision_tower(pixels).pooler_output @ clip.visual.proj
        torch.testing.assert_close(ours, clip.encode_image(pixels), rtol=2e-2, atol=2e-2)


def test_every_word_of_a_question_is_one_token(loaded: tuple[Any, Any]) -> None:
    reads = loaded[1].tokenizer
    for seed in range(40):
        for question in candidates(make_scene(seed)):
            for text in (question.text, question.answer):
                words = text.replace("?", " ?").replace(",", " ,").split()
                ids = reads(text, add_special_tokens=False).input_ids
                assert reads.convert_ids_to_tokens(ids) == words
    assert reads("two giraffes", add_special_tokens=False).input_ids == [reads.unk_token_id] * 2


@pytest.mark.slow
def test_it_looks_before_it_answers(loaded: tuple[Any, Any]) -> None:
    """30 held-out scenes: far better than on a grey picture, in plain transformers and in the words of its template."""
    model, processor = loaded
    scenes = scenes_of("val", 30)
    asked = [(scene, question) for scene, picked in zip(scenes, ask(scenes), strict=True) for question in picked]
    pictures = {scene.seed: Image.fromarray(draw(scene, 144)[0]) for scene in scenes}
    grey = Image.new("RGB", (144, 144), (128, 128, 128))
    shares = []
    for blank in (False, True):
        right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        for start in range(0, len(asked), 30):
            part = asked[start : start + 30]
            talks = [
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}] for _, question in part
            ]
            text = processor.apply_chat_template(talks, add_generation_prompt=True)
            seen = [grey if blank else pictures[scene.seed] for scene, _ in part]
            inputs = processor(text=text, images=seen, padding=True, return_tensors="pt")
            with torch.inference_mode():
                ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
            told = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for answer, (_, question) in zip(told, part, strict=True):
                right[question.kind].append(answer.strip() == question.answer)
        shares.append(float(np.mean([np.mean(hits) for hits in right.values()])))
    assert shares[0] > shares[1] + 0.3
