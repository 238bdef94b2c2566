"""Cases that fresh eyes found of the kinds 1 to 10 of issue 11: what was taken without a word, or ended in a traceback."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import fna
from fna.data.asked_files import TextVqa, VqaV2
from fna.data.coco import CocoCaptions
from fna.data.coco_masks import CocoInstances, CocoPanoptic
from fna.data.imagefolder import ImageFolder
from fna.data.llava_bench import LlavaBench
from fna.data.pictures import unread_note
from fna.data.segmentation import LabelMaps
from fna.data.tsv import TsvCaptions
from fna.errors import UserError
from fna.kv.snapkv import SnapKV
from fna.models.decoder import TextModel
from fna.models.hf_files import preprocessing
from fna.models.llava import ZOO, VisionLanguageModel
from fna.models.open_clip_pixels import said_beside
from fna.models.timm import TimmModel
from fna.surgery.cache import kept, read_prompt
from tests.kv import eyes

Edit = Callable[[dict[str, Any]], object]


def picture(file: Path, shade: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(file)
    return file


def maps(root: Path, values: np.ndarray, **options: Any) -> LabelMaps:
    """Four images and label maps of ``values``, in folders that no split names."""
    for number in range(4):
        picture(root / f"img/{number}.png")
        (root / "ann").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / f"ann/{number}.png")
    said: dict[str, Any] = {"images": "img/{name}.png", "labels": "ann/{name}.png", "classes": ["a", "b"], "split": "val"}
    return LabelMaps("own", str(root), **{**said, **options})


def trained(source: Any) -> Any:
    return source.load(None).training()


# 1: a path that is not there becomes another question


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("cat_train", "cat_test", "dog_train"), ("my-train", "my-val")])
def test_folders_that_differ_in_the_word_for_a_split_alone_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        picture(tmp_path / name / "0.png")
    with pytest.raises(UserError, match="look like splits"):
        ImageFolder(str(tmp_path), split=None).load(None)


def test_a_training_split_that_no_path_names_is_the_split_itself_and_refused(tmp_path: Path) -> None:
    source = maps(tmp_path, np.zeros((6, 8), np.uint8), train="train")
    with pytest.raises(UserError, match=r"dataset\.train=train: 4 of the 4 images to learn from are asked about too \(first: 0\)"):
        trained(source)


def test_a_listing_to_learn_from_that_holds_images_that_are_asked_about_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("0\n1\n")
    (tmp_path / "train.txt").write_text("2\n3\n")
    (tmp_path / "trainval.txt").write_text("0\n2\n3\n")
    zeros = np.zeros((6, 8), np.uint8)
    assert len(trained(maps(tmp_path, zeros, listing="{split}.txt", train="train")).examples) == 2
    with pytest.raises(UserError, match=r"dataset\.train=trainval: 1 of the 3 images"):
        trained(maps(tmp_path, zeros, listing="{split}.txt", train="trainval"))


def test_links_to_images_that_are_asked_about_teach_nobody(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            picture(tmp_path / split / name / "0.png")
    (tmp_path / "train/cat/1.png").symlink_to(tmp_path / "val/cat/0.png")
    with pytest.raises(UserError, match=r"1 of the 3 images to learn from are asked about too \(first: cat/1\.png\)"):
        trained(ImageFolder(str(tmp_path), split="val", train="train"))


# 3: labels are not held against their declaration


def test_more_classes_than_a_label_map_holds_are_refused_for_one_would_be_the_ignored_value(tmp_path: Path) -> None:
    classes = [f"c{number}" for number in range(256)]
    with pytest.raises(UserError, match=r"dataset\.classes: 256 names; 255 at most"):
        maps(tmp_path, np.zeros((6, 8), np.uint8), classes=classes, ignored=[]).load(None)


# 4: weights run in another way than they were made for


@pytest.mark.parametrize("said", [{"image_mean": [127.5] * 3}, {"image_std": [58.0, 57.0, 57.0]}])
def test_a_mean_of_pixels_up_to_255_beside_weights_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 3, **said}))
    with pytest.raises(UserError, match=r"preprocessor_config\.json: (mean|std)=\[.*give a list"):
        preprocessing(tmp_path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rescale_factor": "x"}, "rescale_factor=x: fna scales pixels by 1/255 only"),
        ({"rescale_factor": [1]}, "rescale_factor=[1]: fna scales pixels by 1/255 only"),
        ({"do_rescale": "no"}, "do_rescale='no': true or false is needed"),
        ({"resample": True}, "resample=True: unknown"),
        ({"image_processor": 5}, "image_processor holds a int, not settings by name"),
    ],
)
def test_settings_of_pixels_of_another_type_are_one_line(said: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, **said}))
    with pytest.raises(UserError, match=re.escape(words)):
        preprocessing(tmp_path)


def test_settings_of_pixels_that_are_no_settings_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": [1]}))
    with pytest.raises(UserError, match=r"open_clip_config\.json: preprocess_cfg holds a list, not settings by name"):
        said_beside(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": "x"}))
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"config\.json: pretrained_cfg holds a str, not settings by name"):
        TimmModel("test_vit", checkpoint=str(tmp_path)).check()


# 5: pictures that lose what they hold


@pytest.mark.parametrize("suffix", [".pcx", ".dds", ".j2k", ".qoi", ".dcm", ".pfm", ".xbm"])
def test_pictures_of_formats_that_are_not_read_are_counted(suffix: str, tmp_path: Path) -> None:
    assert unread_note([tmp_path / f"a{suffix}"])[0].startswith(f"1 picture left out: {suffix} is not read")


# 6: a digest that does not see the change


def edited(file: Path, change: Edit) -> None:
    made = json.loads(file.read_text())
    change(made)
    file.write_text(json.dumps(made))


WRITES: dict[str, tuple[str, Edit]] = {
    "architecture": ("config.json", lambda made: made.update(rms_norm_eps=0.5)),
    "generation": ("generation_config.json", lambda made: made.update(repetition_penalty=5.0)),
    "tokenizer": ("tokenizer.json", lambda made: made.update(normalizer={"type": "NFC"})),
}


@pytest.mark.parametrize(("file", "change"), WRITES.values(), ids=WRITES.keys())
def test_a_language_model_run_otherwise_is_another_model_wherever_it_lies(file: str, change: Edit, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.models.test_llava import WORDS, tokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(tmp_path / "here")
    tokenizer().save_pretrained(tmp_path / "here")

    def identity(folder: Path) -> dict[str, Any]:
        return TextModel(str(folder)).build(image_size=None, device="cpu", dtype="float32", seed=0).identity

    before = identity(tmp_path / "here")
    assert identity(Path(shutil.copytree(tmp_path / "here", tmp_path / "there"))) == before
    edited(tmp_path / "there" / file, change)
    assert identity(tmp_path / "there") != before


SEES: dict[str, tuple[str, Edit]] = {
    "layer": ("config.json", lambda made: made.update(vision_feature_layer=[-2, -2])),
    "generation": ("generation_config.json", lambda made: made.update(repetition_penalty=5.0)),
    "tokenizer": ("tokenizer.json", lambda made: made.update(normalizer={"type": "NFC"})),
}


@pytest.mark.parametrize(("file", "change"), SEES.values(), ids=SEES.keys())
def test_a_vision_language_model_run_otherwise_is_another_model(file: str, change: Edit, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ZOO / "llava_shapes", tmp_path / "llava"))

    def identity() -> dict[str, Any]:
        made = VisionLanguageModel(str(folder), prompt="short")
        return made.build(image_size=None, device="cpu", dtype="float32", seed=0).identity

    before = identity()
    edited(folder / file, change)
    assert identity() != before


def test_another_number_of_heads_beside_the_same_weights_is_another_model(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    found = []
    for heads in (2, 4):
        (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": heads}))
        made = TimmModel("test_vit", checkpoint=str(tmp_path))
        found.append(made.build(image_size=None, device="cpu", dtype="float32", seed=0).identity)
    assert found[0] != found[1]


# 7: the result says another setting than ran


@pytest.mark.parametrize(
    ("attn", "options", "said"),
    [
        ("window", {"window": 9}, "window=9 is no smaller than the 6 x 6 patches there are: each of them sees all"),
        ("low_rank", {"landmarks": 37}, "rank=37 is no less than the 37 tokens there are: nothing is cut"),
    ],
)
def test_a_setting_beyond_what_there_is_to_approximate_is_told(attn: str, options: dict[str, Any], said: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 37, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=said):
        fna.attention(q, k, v, attn, grid=(6, 6), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fna.attention(q, k, v, attn, grid=(6, 6), **dict.fromkeys(options, 5))


def test_a_voting_window_that_holds_the_whole_prompt_is_told() -> None:
    net = eyes.llava()
    ids = torch.randint(6, 14, (1, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    told = pytest.warns(UserWarning, match=r"kv\.window=32 is no less than the 12 tokens of a prompt: all of it stays")
    with torch.no_grad(), told, kept(net, SnapKV(), prompt=read_prompt(net, **inputs)) as cache:
        net.generate(**inputs, past_key_values=cache, max_new_tokens=2, do_sample=False)


# 9: the library


def vit() -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=3, embed_dim=64, num_heads=2, img_size=96, num_classes=10).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 96, 96, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduce", ["tome", "evit", "pitome", "tofu", "resize", "cubist"])
def test_a_trace_with_a_reducer_is_the_eager_model_for_any_images(reduce: str) -> None:
    model = vit()
    with torch.no_grad(), fna.swap(model, "exact", layers="all", reduce=reduce):
        traced = torch.jit.trace(model, images(1), check_trace=False)
        for x in (images(1, seed=1), images(3, seed=2)):
            torch.testing.assert_close(traced(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduce", ["atc", "random_drop"])
def test_a_trace_that_would_keep_what_the_example_merged_is_refused(reduce: str) -> None:
    model = vit()
    refused = pytest.raises(UserError, match=r"torch\.jit\.trace cannot record")
    with torch.no_grad(), fna.swap(model, "exact", layers="all", reduce=reduce), refused:
        torch.jit.trace(model, images(1), check_trace=False)


def test_a_reducer_that_draws_follows_the_seed_of_the_call() -> None:
    model, outs = vit(), []
    for seed in (0, 0, 1):
        with torch.no_grad(), fna.swap(model, "exact", layers="all", reduce="random_drop", seed=seed):
            outs.append(model(images(1)))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("options", [{"sampler": None}, {"sampler": 5}, {"reduce": 7}, {"mask": 7}])
def test_what_is_no_name_is_told_in_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(options))}=") as caught:
        fna.swap(vit(), "fna", layers="all", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attn", ["fna", "fna_plus", "fna_local", "clustered", "nystromformer", "subset"])
def test_keys_that_may_not_be_seen_leave_no_trace_however_large_they_are(attn: str) -> None:
    q, k, v = torch.randn(3, 2, 3, 37, 8, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(37).expand(2, -1) < 20
    large = torch.where(keys[:, None, :, None], k, 1e4 * k)
    outs = [fna.attention(q, key, v, attn, landmarks=9, keys=keys, grid=(6, 6))[:, :, :20] for key in (k, large)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)


# 10: what can be known at load is refused at load


def coco(root: Path, text: Callable[[str], str]) -> Path:
    """A file of two images with an instance and a caption each, its text as ``text`` makes it."""
    for number in range(2):
        picture(root / f"pics/{number}.png")
    square = [[1, 1, 4, 1, 4, 4, 1, 4]]
    made = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 8, "height": 6} for number in range(2)],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "area": 9, "caption": "a cup", "segmentation": square}
            for number in range(2)
        ],
    }
    (root / "a.json").write_text(text(json.dumps(made)))
    return root


LONG = "9" * 400


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"area": 9', f'"area": {LONG}', r"annotations\[0\]: area is 9+; a number is needed"),
        ('"width": 8', f'"width": {LONG}', r"images\[0\]: width is 9+; a number is needed"),
        ("[[1, 1", f"[[{LONG}, 1", r"annotations\[0\]: segmentation holds"),
    ],
)
def test_a_number_of_more_digits_than_a_float_holds_is_none(old: str, new: str, said: str, tmp_path: Path) -> None:
    root = coco(tmp_path, lambda text: text.replace(old, new))
    with pytest.raises(UserError, match=said):
        CocoInstances(str(root), annotations="a.json", images="pics").load(None)


def test_a_key_that_stands_twice_in_an_object_is_refused_for_one_of_both_would_be_lost(tmp_path: Path) -> None:
    root = coco(tmp_path, lambda text: f'{text[:-1]}, "annotations": []}}')
    with pytest.raises(UserError, match=r"a\.json: .*the key 'annotations' stands twice in one object; keep one"):
        CocoInstances(str(root), annotations="a.json", images="pics").load(None)
    with pytest.raises(UserError, match="stands twice"):
        CocoCaptions(str(root), "a.json", "pics", "all").load(None)


def test_a_line_of_more_cells_than_columns_is_refused_for_a_caption_would_be_lost(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "c.tsv").write_text("filepath\tcaptions\n0.png\t['a']\t['b']\n")
    with pytest.raises(UserError, match=r"c\.tsv, line 2: has more cells than columns"):
        TsvCaptions(str(tmp_path), "c.tsv").load(None)


def panoptic(root: Path, segments: list[dict[str, int]]) -> CocoPanoptic:
    """An image whose left half is void and whose right half is segment 1."""
    picture(root / "val2017/a.png")
    numbers = np.zeros((6, 8, 3), np.uint8)
    numbers[:, 4:, 0] = 1
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    Image.fromarray(numbers).save(root / "annotations/panoptic_val2017/a.png")
    made = {
        "images": [{"id": 0, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}],
    }
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(made))
    return CocoPanoptic(str(root))


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ([{"id": 1, "category_id": 1}, {"id": 1, "category_id": 2}], r"segments_info\[1\]: id 1 stands at .* something else"),
        ([{"id": 1, "category_id": 1}, {"id": 0, "category_id": 2}], r"segment 0 is what no segment covers"),
        ([{"id": 9, "category_id": 1}], r"a\.png: segment 1 is not in the annotations"),
    ],
)
def test_segments_that_do_not_fit_their_png_are_refused_at_load(segments: list[dict[str, int]], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        panoptic(tmp_path, segments).load(None)


def lines(file: Path, *entries: dict[str, Any]) -> None:
    file.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


@pytest.mark.parametrize("twice", ["answers_gpt4.jsonl", "context.jsonl"])
def test_two_references_or_contexts_that_differ_are_refused(twice: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    lines(tmp_path / "questions.jsonl", {"question_id": 1, "image": "a.png", "text": "?", "category": "conv"})
    lines(tmp_path / "answers_gpt4.jsonl", {"question_id": 1, "text": "A"})
    lines(tmp_path / "context.jsonl", {"image": "a.png", "caption": "x"})
    file = tmp_path / twice
    file.write_text(file.read_text() * 2)
    assert len(LlavaBench(str(tmp_path)).load(None).examples) == 1  # the same twice says one thing
    file.write_text(file.read_text().replace('"A"', '"B"', 1).replace('"x"', '"y"', 1))
    with pytest.raises(UserError, match=rf"{twice}, line 2: .* too and says something else; keep one"):
        LlavaBench(str(tmp_path)).load(None)


def test_two_annotations_of_a_question_that_differ_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/000000000001.jpg")
    (tmp_path / "q.json").write_text(json.dumps({"questions": [{"question_id": 1, "image_id": 1, "question": "?"}]}))
    notes = [{"question_id": 1, "answers": [{"answer": answer}] * 10} for answer in ("yes", "no")]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": notes}))
    with pytest.raises(UserError, match=r"annotations\[1\]: question_id 1 stands at .*annotations\[0\] too"):
        VqaV2(str(tmp_path), "q.json", "images", annotations="a.json").load(None)


def test_two_lists_of_words_of_an_image_that_differ_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/i.jpg")
    question = {"question_id": 1, "image_id": "i", "question": "?", "answers": ["a"] * 10}
    (tmp_path / "q.json").write_text(json.dumps({"data": [question]}))
    (tmp_path / "o.json").write_text(json.dumps({"data": [{"image_id": "i", "ocr_tokens": [word]} for word in "xy"]}))
    with pytest.raises(UserError, match=r"data\[1\]: image_id i stands at .*data\[0\] too"):
        TextVqa(str(tmp_path), "q.json", "images", ocr="o.json").load(None)
