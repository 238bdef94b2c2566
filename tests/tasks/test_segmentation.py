"""Segmentation: windows, heads, what is refused; on a small random ViT and drawn street scenes of two colours."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from fna.data.base import Dataset
from fna.data.segmentation import LabelMaps
from fna.errors import UserError
from fna.models.base import Model, Weights
from fna.models.timm import TimmModel
from fna.ops.contract import Tokens
from fna.ops.exact import Exact
from fna.surgery.lookahead import swap_masked
from fna.surgery.registers import Registers
from fna.surgery.swap import swap_tower
from fna.tasks.base import Prepared, Run
from fna.tasks.dense import Inference, normalised, resize, sized, starts
from fna.tasks.features import patch_features
from fna.tasks.heads import LinearHead
from fna.tasks.maskclip import MaskClip
from fna.tasks.segmentation import Segmentation
from fna.tasks.texts import sentences

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def model() -> Model:
    source = TimmModel("vit_tiny_patch16_224", random=True, num_classes=0)
    return source.build(image_size=(64, 96), device="cpu", dtype="float32", seed=0)


@pytest.fixture
def scenes(tmp_path: Path) -> LabelMaps:
    """Bright above, dark below a horizon that differs from image to image; its line is not labelled."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for number in range(count):
            horizon = int(generator.integers(16, 48))
            pixels = generator.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            pixels[:horizon] += 180
            labels = np.full((HEIGHT, WIDTH), 1, np.uint8)
            labels[:horizon], labels[horizon] = 0, 11
            Image.fromarray(pixels).save(tmp_path / split / f"{number}.png")
            Image.fromarray(labels).save(tmp_path / f"{split}annot" / f"{number}.png")
    return LabelMaps(
        "scenes", str(tmp_path), "val", "{split}/{name}.png", "{split}annot/{name}.png", ["sky", "ground"], (11,), train="train"
    )


def task(tmp_path: Path, head: LinearHead | None = None, **view: Any) -> Segmentation:
    return Segmentation(head or LinearHead(steps=60, batch=6), Inference(**view), cache=str(tmp_path / "cache"))


def scored(task: Segmentation, model: Model, data: Dataset, run: Run | None = None) -> dict[str, float]:
    outcome = task.evaluate(model, data, run or Run(batch_size=3))
    return {name: float(value) for name, value in task.metrics({k: v.sum(0) for k, v in outcome.counts.items()}).items()}


def test_a_linear_head_learns_and_is_kept(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data, made = scenes.load(None), task(tmp_path)
    made.check(model, data)
    assert isinstance(made, Prepared)
    key = made.prepare(model, data, Run(batch_size=3))
    outcome = made.evaluate(model, data, Run(batch_size=3))
    assert outcome.keys == ["0", "1", "2", "3"]
    assert outcome.decisions.shape == (4, 64 * 64)
    assert outcome.outputs.shape == (4, 2 * 16)
    count = len(data.training().examples)
    assert f"linear head: trained on {count} images" in made.notes(outcome, data)
    fewer = task(tmp_path, LinearHead(images=2))
    assert "linear head: trained on 2 images" in fewer.notes(outcome, data)
    scores = scored(made, model, data)
    assert scores["miou"] > 80
    assert scores["aacc"] >= scores["miou"]
    file = tmp_path / f"cache/heads/{key}.safetensors"
    before = file.stat().st_mtime_ns
    again = task(tmp_path)
    assert again.prepare(model, data, Run(batch_size=1)) == key
    assert file.stat().st_mtime_ns == before
    assert scored(again, model, data) == scores


def test_the_head_is_seeded(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data = scenes.load(None)
    keys = [task(tmp_path / folder).prepare(model, data, Run(3, seed)) for folder, seed in (("a", 0), ("b", 0), ("b", 1))]
    one, two, other = (
        load_file(tmp_path / f"{folder}/cache/heads/{key}.safetensors") for folder, key in zip("abb", keys, strict=True)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert keys[0] == keys[1] != keys[2]
    assert not torch.equal(one["conv.weight"], other["conv.weight"])


def test_interrupted_features_go_on(model: Model, scenes: LabelMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = scenes.load(None), []

    def stumbling(self: LinearHead, model: Model, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return patch_features(model, images)

    monkeypatch.setattr(LinearHead, "features", stumbling)
    with pytest.raises(KeyboardInterrupt):
        task(tmp_path).prepare(model, data, Run(batch_size=3))
    task(tmp_path).prepare(model, data, Run(batch_size=3))
    assert seen == [1, 3, 3, 3, 1, 3, 3]  # the first is the look at the width; six images were kept


def test_exact_attention_changes_nothing_and_refit_trains_anew(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data = scenes.load(None)
    made = task(tmp_path, LinearHead(steps=30, batch=6, refit=True))
    key = made.prepare(model, data, Run(batch_size=3))
    full = made.evaluate(model, data, Run(batch_size=3))
    with swap_tower(model.tower, {11: Exact()}):
        variant = made.evaluate(model, data, Run(batch_size=3, variant="abc"))
    assert (full.decisions == variant.decisions).mean() > 0.99
    heads = sorted(path.stem for path in (tmp_path / "cache/heads").glob("*.safetensors"))
    assert len(heads) == 2
    assert key in heads


def test_whole_and_one_window_agree(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data = scenes.load(None)
    whole, slide = (task(tmp_path, mode=mode) for mode in ("whole", "slide"))
    for made in (whole, slide):
        made.prepare(model, data, Run(batch_size=2))
    one, other = (made.evaluate(model, data, Run(batch_size=2)) for made in (whole, slide))
    assert (one.decisions == other.decisions).mean() > 0.995
    assert np.allclose(one.outputs, other.outputs, rtol=1e-2, atol=1e-2)


def test_windows_lie_as_in_mmsegmentation() -> None:
    spans = {600: [0, 88], 1024: [0, 341, 512], 2048: [0, 341, 682, 1023, 1364, 1536], 500: [0]}
    assert {length: starts(length, 512, 2 / 3) for length in spans} == spans


def test_sliding_over_constant_scores_is_constant(model: Model) -> None:
    view = Inference(mode="slide", short_side=100, stride=0.5)
    images = torch.zeros(2, 3, 100, 170, dtype=torch.uint8)
    for scores in view.scores(model, lambda x: x.new_full((len(x), 3, 4, 6), 2.5), images):
        assert scores.shape == (3, 100, 170)
        assert torch.allclose(scores, torch.tensor(2.5))


def test_flip_and_scales_average_probabilities(model: Model) -> None:
    images = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = []

    def score(x: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(x.shape[-2:]))
        return F.adaptive_avg_pool2d(x, (x.shape[-2] // 16, x.shape[-1] // 16))

    (mixed,) = Inference(scales=(1.0, 1.5), flip=True).scores(model, score, images)
    assert sizes == [(64, 96), (64, 96), (96, 144), (96, 144)]
    assert torch.allclose(mixed.sum(0), torch.ones(64, 96), atol=1e-5)
    (turned,) = Inference(scales=(1.0, 1.5), flip=True).scores(model, score, images.flip(-1))
    assert torch.allclose(mixed, turned.flip(-1), atol=1e-4)


def test_short_side_keeps_the_aspect_in_multiples_of_the_patch(model: Model) -> None:
    assert Inference(short_side=128).input_size(model, (300, 451)) == (128, 192)
    assert Inference().input_size(model, (300, 451)) == (64, 96)
    assert Inference(mode="slide", short_side=128).input_size(model, (300, 451)) == (128, 192)


def test_another_size_and_back_is_bit_for_bit(model: Model) -> None:
    assert model.patches is not None
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        before = model.patches(images)
        with sized(model, (96, 96)):
            assert model.patches(torch.rand(1, 3, 96, 96)).shape == (1, 36, 192)
        assert torch.equal(model.patches(images), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "size"), [("eva02_tiny_patch14_224", (28, 112)), ("vit_small_patch16_rope_224", (32, 96))])
def test_rotary_tables_come_back_too(name: str, size: tuple[int, int], dtype: str) -> None:
    """Also from a shape with as many patches, where a stale table would fit."""
    model = TimmModel(name, random=True).build(image_size=(56, 56) if "14" in name else (64, 64), device="cpu", dtype=dtype, seed=0)
    images = torch.rand(1, 3, *model.image_size).to(model.dtype)
    with torch.inference_mode():
        before = patch_features(model, images)
        for other in (size, (size[0], size[0])):
            with sized(model, other):
                patch_features(model, torch.rand(1, 3, *other).to(model.dtype))
        assert torch.equal(patch_features(model, images), before)


def test_pixels_are_normalised_as_the_models_transform_does(model: Model) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    ours = normalised(model, resize(pixels, (64, 96)))[0]
    theirs = model.transform.transforms[-1](pixels[0] / 255)  # type: ignore[attr-defined]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_patch_features_of_one_block_are_the_models_own(model: Model) -> None:
    assert model.patches is not None
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        own = patch_features(model, images)
        assert torch.equal(own.flatten(2).transpose(1, 2), model.patches(images))
        four = patch_features(model, images, 4)
    assert four.shape == (2, 4 * 192, 4, 6)
    assert torch.equal(four[:, -192:], own)


def test_appended_tokens_are_no_patches(model: Model, clip: Model) -> None:
    images, scene = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 64)
    registers = Registers(found={}, tokens=3)
    with torch.inference_mode():
        with swap_masked(model.tower, {10: Exact()}, registers):
            assert patch_features(model, images, 4).shape == (2, 4 * 192, 4, 6)
        with swap_masked(clip.tower, {1: Exact()}, registers):
            assert MaskClip().features(clip, scene).shape == (2, 32, 4, 4)


def test_wrong_input_is_one_line(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data, made = scenes.load(None), task(tmp_path)
    key = made.prepare(model, data, Run(batch_size=3))
    refused = {
        "needs at least two": lambda: made.check(model, replace(data, classes=["all"])),
        "no label maps": lambda: made.check(model, Dataset("photos", "val", "photographs", "", [])),
        "no training split": lambda: made.check(model, replace(data, training=None)),
        "a head for other classes": lambda: task(
            tmp_path, LinearHead(checkpoint=str(tmp_path / f"cache/heads/{key}.safetensors"))
        ).check(model, replace(data, classes=["sky", "road", "car"])),
        "not a linear head": lambda: task(tmp_path, LinearHead(checkpoint=str(tmp_path / "val/0.png"))).check(model, data),
    }
    for message, refusal in refused.items():
        with pytest.raises(UserError, match=message) as caught:
            refusal()
        assert "\n" not in str(caught.value)


def test_a_label_map_of_another_size_or_value_names_its_file(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    made = task(tmp_path)
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / "valannot/2.png")
    with pytest.raises(UserError, match=r"valannot/2\.png: 10x10, but its image .*2\.png is 96x64"):
        made.evaluate(model, scenes.load(None), Run(batch_size=3))
    Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(tmp_path / "valannot/2.png")
    with pytest.raises(UserError, match=r"valannot/2\.png: label value 7"):
        made.evaluate(model, scenes.load(None), Run(batch_size=3))


def test_a_head_file_without_classes_is_checked_by_count(model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data, made = scenes.load(None), task(tmp_path)
    key = made.prepare(model, data, Run(batch_size=3))
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(tmp_path / f"cache/heads/{key}.safetensors"), bare)
    other = task(tmp_path, LinearHead(checkpoint=str(bare)))
    other.check(model, data)
    assert other.prepare(model, data, Run(batch_size=3)) != key
    assert scored(other, model, data) == scored(made, model, data)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random open_clip ViT whose texts are unit vectors by the first letter of the class."""
    import open_clip

    vision = {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 1, "layers": 1}
    torch.manual_seed(0)
    net = open_clip.CLIP(32, vision, text).eval().requires_grad_(False)

    def encode_text(sentences: Any) -> torch.Tensor:
        return torch.stack([F.one_hot(torch.tensor("sg".index(text[0])), 32).float() for text in sentences])

    return Model(
        name="tiny clip",
        tower=net,
        weights=Weights("random", "0", "none"),
        transform=lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1,
        image_size=(64, 64),
        tokens=Tokens(prefix=1, grid=(4, 4)),
        depth=3,
        device=torch.device("cpu"),
        dtype=torch.float32,
        encode_image=net.encode_image,
        encode_text=encode_text,
    )


def by_hand(clip: Model, images: torch.Tensor, residual: bool, mlp: bool) -> torch.Tensor:
    """MaskCLIP's formula written out on the weights."""
    visual = clip.tower.visual
    block = visual.transformer.resblocks[-1]
    entered: list[torch.Tensor] = []
    with block.register_forward_pre_hook(lambda _, args: entered.append(args[0])):
        visual(images)
    x = entered[0]
    value = F.linear(block.ln_1(x), block.attn.in_proj_weight[128:], block.attn.in_proj_bias[128:])
    u = block.attn.out_proj(value) + (x if residual else 0)
    u = u + block.mlp(block.ln_2(u)) if mlp else u
    return (visual.ln_post(u[:, 1:]) @ visual.proj).transpose(1, 2).unflatten(2, (4, 4))


@pytest.mark.parametrize(("residual", "mlp"), [(True, True), (False, False)])
def test_maskclip_is_its_formula_swapped_or_not(clip: Model, residual: bool, mlp: bool) -> None:
    head = MaskClip(residual=residual, mlp=mlp)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = by_hand(clip, images, residual, mlp)
        assert torch.allclose(head.features(clip, images), expected, atol=1e-5)
        with swap_tower(clip.tower, {1: Exact(), 2: Exact()}), pytest.warns(UserWarning, match="block 2: what .* is not measured"):
            assert torch.allclose(head.features(clip, images), expected, atol=1e-5)
        with swap_tower(clip.tower, {1: Exact()}), warnings.catch_warnings(action="error"):
            head.features(clip, images)
        assert torch.allclose(head.features(clip, images), expected, atol=1e-5)


def test_zero_shot_segmentation_runs_and_keeps_its_texts(clip: Model, model: Model, scenes: LabelMaps, tmp_path: Path) -> None:
    data = scenes.load(None)
    made = Segmentation(MaskClip(templates=["{}"]), cache=str(tmp_path / "cache"))
    made.check(clip, data)
    made.prepare(clip, data, Run(batch_size=2))
    assert len(list((tmp_path / "cache/texts").glob("*.npy"))) == 1
    outcome = made.evaluate(clip, data, Run(batch_size=2))
    assert outcome.decisions.shape == (4, 64 * 64)
    with pytest.raises(UserError, match="reads no text"):
        made.check(model, data)


def test_classes_of_one_name_are_noted_once_for_words_cannot_tell_them_apart(clip: Model, scenes: LabelMaps) -> None:
    data = replace(scenes.load(None), classes=["Ground", "sky", "ground"])
    for _ in range(2):  # a task is checked before it is prepared and before each pass
        MaskClip().check(clip, data)
    assert [note for note in data.notes if "one name" in note] == [
        "classes of one name cannot be told apart, the first is answered: Ground"
    ]


def test_templates() -> None:
    assert len(sentences("simple")) == 1
    assert len(sentences("openai")) == 80
    assert len(sentences("maskclip")) == 85
    assert sentences("maskclip")[-1]("dog") == "this is one dog in the scene."
    with pytest.raises(ValueError, match="give simple, openai, maskclip"):
        sentences("none")
