"""Vision-language models: found, refused in one line, asked in the words that they were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fna.errors import UserError
from fna.models.llava import VisionLanguageModel, squared
from fna.models.vlm_prompts import VICUNA, prompt
from fna.surgery.cache import kept, read_prompt
from tests.kv import eyes

WORDS = ("<pad>", "<s>", "</s>", "<image>", "<unk>", "USER:", "ASSISTANT:", "what", "is", "this", "?", "red", "and", "that")


def tokenizer(words: tuple[str, ...] = WORDS) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.add_special_tokens([word for word in words if word.startswith("<") or word.endswith(":")])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, extra_special_tokens={"image_token": "<image>"}, **special)


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPImageProcessor, LlavaProcessor

    folder = tmp_path_factory.mktemp("llava")
    eyes.llava().save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"height": eyes.SIDE, "width": eyes.SIDE}, do_center_crop=False)
    template = (
        "{% for m in messages %}{% for p in m['content'] %}{{ '<image>' if p['type'] == 'image' else p['text'] }}"
        "{% endfor %}{% endfor %}"
    )
    LlavaProcessor(
        pictures,
        tokenizer(),
        patch_size=eyes.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def next_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-NeXT: images in tiles with newlines, grouped heads."""
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    folder = tmp_path_factory.mktemp("next")
    model = eyes.llava_next()
    model.save_pretrained(folder)
    side = {"height": eyes.SIDE, "width": eyes.SIDE}
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": eyes.SIDE}, crop_size=side, image_grid_pinpoints=model.config.image_grid_pinpoints
    )
    LlavaNextProcessor(
        pictures, tokenizer(), patch_size=eyes.PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL: images of any size, grouped heads, positions in three parts."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor

    words = (*WORDS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
    }
    marks = {name: words.index(f"<|{mark}|>") for name, mark in (("image_token_id", "image_pad"), ("video_token_id", "video_pad"))}
    marks |= {"vision_start_token_id": words.index("<|vision_start|>"), "vision_end_token_id": words.index("<|vision_end|>")}
    config = Qwen2_5_VLConfig(text_config=text, vision_config={**vision, "window_size": 56, "patch_size": 14}, **marks)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("qwen")
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for m in messages %}{% for p in m['content'] %}"
        "{{ '<|vision_start|><|image_pad|><|vision_end|>' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    )
    reads = tokenizer(words)
    reads.image_token, reads.video_token = "<|image_pad|>", "<|video_pad|>"
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224), reads, _video(), chat_template=template
    ).save_pretrained(folder)
    return folder


def _video() -> Any:
    from transformers import Qwen2VLVideoProcessor

    return Qwen2VLVideoProcessor()


def build(folder: Path, **options: Any) -> Any:
    return VisionLanguageModel(str(folder), **options).build(image_size=None, device="cpu", dtype="float32", seed=0)


def answers(model: Any, pictures: list[list[Image.Image]], talks: list[Any], policy: Any = None) -> list[list[int]]:
    talk = model.answer
    inputs = talk.inputs(pictures, talks)
    talk.fresh()
    with torch.no_grad(), kept(talk.net, policy, prompt=read_prompt(talk.net, **inputs)) as cache:
        out = talk.net.generate(**inputs, past_key_values=cache, min_new_tokens=5, max_new_tokens=5, do_sample=False)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def picture(seed: int, size: tuple[int, int] = (30, 40)) -> Image.Image:
    import numpy as np

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


STYLES = {"llava_folder": "vicuna", "next_folder": "mistral", "qwen_folder": "template"}


@pytest.mark.parametrize("family", STYLES)
def test_a_batch_is_answered_as_its_rows_alone(family: str, request: pytest.FixtureRequest) -> None:
    model = build(request.getfixturevalue(family), prompt=STYLES[family])
    pictures = [[picture(0)], [picture(1, (60, 30))]]
    talks = [[("what is this ?", None)], [("is this red and is that ?", None)]]
    together = answers(model, pictures, talks)
    assert together == [answers(model, [seen], [talk])[0] for seen, talk in zip(pictures, talks, strict=True)]


@pytest.mark.parametrize("family", STYLES)
def test_policies_for_image_tokens_serve_every_family(family: str, request: pytest.FixtureRequest) -> None:
    from fna.kv.divprune import DivPrune
    from fna.kv.random import RandomTokens

    model = build(request.getfixturevalue(family), prompt=STYLES[family])
    shown: Any = ([[picture(0)]], [[("what is this ?", None)]])
    stock = answers(model, *shown)
    for policy in (RandomTokens, DivPrune):
        assert answers(model, *shown, policy(budget=1.0)) == stock
        assert len(answers(model, *shown, policy(budget=0.25))[0]) == 5


def test_what_needs_a_tower_with_a_cls_token_says_so(qwen_folder: Path) -> None:
    from fna.kv.visionzip import VisionZip

    with pytest.raises(UserError, match="no CLS token whose attention could score image tokens"):
        answers(build(qwen_folder), [[picture(0)]], [[("what is this ?", None)]], VisionZip(budget=0.5))


def test_two_pictures_stand_before_the_first_question(llava_folder: Path) -> None:
    talk = build(llava_folder, prompt="short").answer
    inputs = talk.inputs([[picture(0), picture(1)]], [[("what is this ?", "red"), ("is that ?", None)]])
    assert int((inputs["input_ids"] == 3).sum()) == 2 * 36
    told = talk.processor.decode(inputs["input_ids"][0]).replace("<image>", "").split()
    assert told == ["USER:", "what", "is", "this", "?", "ASSISTANT:", "red", "</s>", "USER:", "is", "that", "?", "ASSISTANT:"]


def test_official_prompts() -> None:
    class Words:
        image_token = "<image>"

    assert prompt("vicuna", Words(), [("why?", None)]) == VICUNA + "USER: <image>\nwhy? ASSISTANT:"
    assert prompt("mistral", Words(), [("why?", "so"), ("oh?", None)]) == "[INST] <image>\nwhy? [/INST] so</s>[INST] oh? [/INST]"
    assert prompt("short", Words(), [("why?", None)], images=0) == "USER: why? ASSISTANT:"


def test_the_weights_are_named_by_their_content_and_run_as_asked(llava_folder: Path) -> None:
    model = build(llava_folder)
    assert model.depth == VisionLanguageModel(str(llava_folder)).depth == 3
    half = VisionLanguageModel(str(llava_folder)).build(image_size=None, device="cpu", dtype="bfloat16", seed=0)
    assert half.answer.net.dtype == torch.bfloat16
    assert half.weights.digest != model.weights.digest
    drawn = [build(llava_folder, random=True) for _ in range(2)]
    assert drawn[0].weights.digest == drawn[1].weights.digest != model.weights.digest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"checkpoint": None}, "has no weights"),
        ({"checkpoint": "nowhere/in/particular"}, "no folder on this machine and no name on the hub"),
        ({"checkpoint": "zoo:nothing"}, "no folder on this machine"),
        ({"bits": 8}, "needs bitsandbytes and a GPU"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(options: dict[str, Any], told: str, llava_folder: Path) -> None:
    with pytest.raises(UserError, match=told):
        VisionLanguageModel(**{"checkpoint": str(llava_folder), **options}).check()


def test_a_folder_without_weights_and_one_of_another_kind(llava_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llava_folder / "config.json").read_text())
    with pytest.raises(UserError, match="holds no weights"):
        VisionLanguageModel(str(tmp_path)).check()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model_type is llama, no vision-language model that fna knows"):
        VisionLanguageModel(str(tmp_path)).check()


def test_pictures_are_made_square_as_llavas_authors_do() -> None:
    """(122, 116, 104) is what they fill with: 255 times CLIP's mean, cut to whole numbers."""
    made = squared(Image.new("RGB", (40, 20), (255, 0, 0)), (0.48145466, 0.4578275, 0.40821073))
    assert made.size == (40, 40)
    assert made.getpixel((0, 9)) == (122, 116, 104) == made.getpixel((39, 30))
    assert made.getpixel((0, 10)) == (255, 0, 0) == made.getpixel((39, 29))


def test_images_are_sized_by_the_processor(llava_folder: Path) -> None:
    with pytest.raises(UserError, match="processor sizes its images"):
        VisionLanguageModel(str(llava_folder)).build(image_size=48, device="cpu", dtype="float32", seed=0)
