"""Models and checkpoints: what training scripts wrote beside the weights, folders of other libraries, texts in other scripts."""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import fna
from fna.data.base import Captioned, Dataset, Labelled
from fna.errors import UserError
from fna.models.base import pixels
from fna.models.checkpoint_files import load
from fna.models.checkpoint_paths import weights_file
from fna.models.hf import HuggingFaceModel
from fna.models.llava import VisionLanguageModel
from fna.models.open_clip import OpenClipModel
from fna.models.open_clip_files import near
from fna.models.text import Texts, foreign, is_spelt, spelt_by
from fna.models.timm import TimmModel
from fna.runner.spelled import as_on_disk
from fna.tasks.class_names import check_names
from fna.tasks.retrieval import Retrieval

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
TINY = "vit_tiny_patch16_224"
DINOV3 = "vit_small_patch16_dinov3"
VISION: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 16}
TEXT: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
TEXT |= {"max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "red", "cat", "dog")
RUSSIAN = ["кошка", "собака", "птица"]


def through_timm(name: str, path: Path, size: Any = None, **given: Any) -> Any:
    return TimmModel(name, checkpoint=str(path), **given).build(**{**CPU, "image_size": size})


def through_transformers(path: Path, size: Any = None) -> Any:
    return HuggingFaceModel(checkpoint=str(path)).build(**{**CPU, "image_size": size})


def trained(folder: Path, **beside: Any) -> Path:
    """What timm's train.py leaves: weights, and beside them what they were trained with."""
    state = timm.create_model(TINY, num_classes=3, depth=12).state_dict()
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}, "version": 2, **beside}, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


def said_of_training(model: Any) -> list[str]:
    return [note for note in model.notes if "says that it was trained" in note]


def test_a_network_that_a_checkpoint_names_is_told_where_another_runs(tmp_path: Path) -> None:
    """A DeiT's tensors fit a ViT's network, which has another mean and std: the figure is another."""
    file = trained(tmp_path, arch="deit_tiny_patch16_224", args=argparse.Namespace(mean=None, interpolation="", crop_pct=None))
    (note,) = said_of_training(through_timm(TINY, file))
    assert "trained as deit_tiny_patch16_224, run as vit_tiny_patch16_224: model.name=deit_tiny_patch16_224 follows it" in note
    assert said_of_training(through_timm("deit_tiny_patch16_224", file)) == []


def test_so_is_one_that_lightning_keeps(tmp_path: Path) -> None:
    file = trained(tmp_path, hyper_parameters={"model_name": "deit_tiny_patch16_224", "lr": 1e-3})
    assert "model.name=deit_tiny_patch16_224 follows it" in said_of_training(through_timm(TINY, file))[0]


def test_pixels_and_pooling_that_a_checkpoint_was_trained_with_are_told_where_they_are_others(tmp_path: Path) -> None:
    args = {"model": TINY, "mean": [0.485, 0.456, 0.406], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "gp": "avg"}
    file = trained(tmp_path, arch=TINY, args=argparse.Namespace(**args))
    (note,) = said_of_training(through_timm(TINY, file))
    assert "model.mean=[0.485,0.456,0.406] model.interpolation=bilinear model.pool=avg follows it" in note
    followed = {"mean": [0.485, 0.456, 0.406], "interpolation": "bilinear", "pool": "avg"}
    assert said_of_training(through_timm(TINY, file, **followed)) == []


def test_what_a_script_calls_otherwise_is_passed_over(tmp_path: Path) -> None:
    """A backbone beside it that has no place for the tensors, and words that no option takes, are no remedy."""
    args = {"backbone": "resnet50", "mean": "imagenet", "std": 0.5, "interpolation": 3, "crop_pct": "0.9", "gp": True}
    assert said_of_training(through_timm(TINY, trained(tmp_path, args=args))) == []
    left = {"mean": None, "std": None, "interpolation": "", "crop_pct": None, "gp": None}  # timm's own, which the network decides
    assert said_of_training(through_timm(TINY, trained(tmp_path, arch=TINY, args=argparse.Namespace(**left)))) == []


def test_a_size_that_tensors_do_not_show_is_that_of_the_config(tmp_path: Path) -> None:
    """Rotary positions have no table; with one, the table counts."""
    torch.save(timm.create_model(DINOV3, num_classes=2).state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": DINOV3, "num_classes": 2, "pretrained_cfg": {"input_size": [3, 320, 160]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert through_timm(DINOV3, tmp_path).image_size == (320, 160)
    assert through_timm(DINOV3, tmp_path, 64).image_size == (64, 64)


def test_a_pooling_of_timms_that_is_not_its_authors_is_told() -> None:
    def notes(**given: Any) -> str:
        return " ".join(TimmModel(DINOV3, random=True, num_classes=0, **given).build(**{**CPU, "image_size": 32}).notes)

    assert "Meta's evaluation takes the class token: model.pool=token" in notes()
    assert "Meta" not in notes(pool="token")


def test_metas_file_of_segment_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its MLPs have other names than timm's, and a prompt encoder and a mask decoder lie beside the image encoder."""
    from timm.models import vision_transformer_sam as sam

    small = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 2, "global_attn_indexes": (1,)}
    made = timm.create_model

    def create(name: str, **given: Any) -> Any:
        return (
            sam.VisionTransformerSAM(img_size=64, neck_chans=8, **small, **{"num_classes": 0, **given}) if "sam" in name else None
        )

    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **given: create(name, **given) or made(name, **given))
    net = create("sam")
    state = {f"image_encoder.{name.replace('mlp.fc', 'mlp.lin')}": tensor for name, tensor in net.state_dict().items()}
    torch.save(state | {"mask_decoder.iou_token.weight": torch.ones(1, 8)}, tmp_path / "sam_vit_b_01ec64.pth")
    model = through_timm("samvit_base_patch16", tmp_path / "sam_vit_b_01ec64.pth", num_classes=0)
    read = model.tower.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in net.state_dict().items())
    assert "mask_decoder (1 tensor, not used)" in model.notes[0]


def test_what_training_keeps_in_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    """transformers' trainer and Lightning under FSDP, DeepSpeed: each has weights elsewhere, and a tool that gathers them."""
    for name in ("training_args.bin", "scheduler.pt", "rng_state_0.pth"):
        torch.save({"a": 1}, tmp_path / name)
    with pytest.raises(UserError, match="the folder holds no weights"):
        weights_file(tmp_path)
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    (tmp_path / "pytorch_model_fsdp_0" / ".metadata").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"pytorch_model_fsdp_0 in it is a distributed .* dcp_to_torch \S+pytorch_model_fsdp_0 FILE"
    ):
        weights_file(tmp_path)
    lightning = tmp_path / "epoch=1.ckpt"
    lightning.mkdir()
    torch.save({"epoch": 1}, lightning / "meta.pt")
    (lightning / ".metadata").write_bytes(b"x")
    with pytest.raises(UserError, match="the folder is a distributed checkpoint of torch"):
        weights_file(lightning)
    deepspeed = tmp_path / "deepspeed"
    (deepspeed / "global_step500").mkdir(parents=True)
    (deepspeed / "zero_to_fp32.py").write_text("")
    torch.save({"a": 1}, deepspeed / "rng_state_0.pth")
    with pytest.raises(UserError, match=r"one of DeepSpeed's, whose weights python \S+zero_to_fp32\.py"):
        weights_file(deepspeed)


def test_weights_of_a_variant_in_several_files_are_read(tmp_path: Path) -> None:
    """As save_pretrained(variant="fp16") writes them: the line asked for an index by a name that it does not have."""
    for part in (1, 2):
        save_file({f"part.{part}": torch.ones(2)}, tmp_path / f"model.fp16-0000{part}-of-00002.safetensors")
    places = {f"part.{part}": f"model.fp16-0000{part}-of-00002.safetensors" for part in (1, 2)}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps({"weight_map": places}))
    assert sorted(load(tmp_path)) == ["part.1", "part.2"]


def test_a_folder_of_another_library_is_told_what_runs_it(tmp_path: Path) -> None:
    """model=hf said "load it with the class that made it"."""
    of_timm, of_open_clip = tmp_path / "timm", tmp_path / "clip"
    of_timm.mkdir()
    (of_timm / "config.json").write_text(json.dumps({"architecture": TINY, "num_classes": 2}))
    with pytest.raises(UserError, match=f"is timm's, not transformers': model=vit model.name={TINY} model.checkpoint="):
        through_transformers(of_timm)
    of_open_clip.mkdir()
    (of_open_clip / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"open_clip's, not of transformers': model=clip_l14 model\.name=local-dir:"):
        through_transformers(of_open_clip)


def test_a_clip_with_a_head_of_classes_is_a_classifier(tmp_path: Path) -> None:
    """It was run as a pair of towers, and refused for the text tower that it has not."""
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=16)
    config.id2label = {0: "cat", 1: "dog", 2: "bird"}
    net: Any = transformers.CLIPForImageClassification(config).eval()
    net.save_pretrained(tmp_path)
    model = through_transformers(tmp_path)
    assert model.classes == ["cat", "dog", "bird"]
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model.classify(images), net(pixel_values=images).logits, atol=1e-6)


def words(folder: Path) -> None:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names: Any = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["ChineseCLIP", "AltCLIP"])
def test_padding_is_hidden_from_text_towers_that_see_all_of_a_text(kind: str, tmp_path: Path) -> None:
    """Their vectors were of text and padding, up to a tenth off; SigLIP's alone was trained so."""
    text = TEXT | ({"project_dim": 16, "max_position_embeddings": 18} if kind == "AltCLIP" else {})
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vision_config=VISION, text_config=text, projection_dim=16)
    net = getattr(transformers, f"{kind}Model")(config).eval()
    net.save_pretrained(tmp_path)
    words(tmp_path)
    texts = ["a photo of cat", "red dog"]
    asked = transformers.AutoTokenizer.from_pretrained(tmp_path)(texts, padding=True, return_tensors="pt")
    asked.pop("token_type_ids", None)
    with torch.no_grad():
        wanted = net.get_text_features(**asked)
        found = through_transformers(tmp_path).encode_text(texts)
    assert torch.allclose(found, getattr(wanted, "pooler_output", wanted), atol=1e-6)


def test_a_processor_that_makes_another_size_than_the_config_says_is_told(tmp_path: Path) -> None:
    """DINOv2's folders: 518 px in config.json, and a processor that crops 224, at which transformers' pipelines run it."""
    sizes: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path)
    crop: Any = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    transformers.BitImageProcessor(**crop).save_pretrained(tmp_path)
    told = "run at 56x56 px, the size in config.json; the image processor beside it makes 28x28"
    model = through_transformers(tmp_path)
    assert model.image_size == (56, 56)
    assert [note for note in model.notes if told in note and note.endswith("image_size=28")]
    assert not [note for note in through_transformers(tmp_path, 28).notes if "image processor beside it makes" in note]


def clip_tokenizer() -> Texts:
    return Texts(None, torch.device("cpu"), lambda: open_clip.get_tokenizer("ViT-B-32"))


@pytest.mark.parametrize(
    "text", ["кошка", "собака", "птица", "γάτα", "猫", "自行车", "飞机", "ネコ", "고양이", "बिल्ली", "แมว", "قطة"]
)
def test_names_in_a_script_that_a_clip_only_takes_apart_are_known(text: str) -> None:
    assert clip_tokenizer().spelt([text, "cat", "café", "Übersee", "Łódź"]) == [text]


def test_a_tokenizer_that_has_words_of_a_script_reads_it() -> None:
    """Few tokens a word; of Chinese one a sign, as its own models have it."""
    assert foreign(["cat", "café", "ñandú", "кошка", "BMW 猫"]) == ["кошка"]
    assert not is_spelt("собака", 2)
    assert not is_spelt("自行车", 3)
    assert is_spelt("自行车", 8)


def test_signs_that_a_tokenizer_does_not_know_are_not_read(tmp_path: Path) -> None:
    words(tmp_path)
    assert spelt_by(transformers.AutoTokenizer.from_pretrained(tmp_path), ["кошка"]) == ["кошка"]


def reader(spelt: Any) -> Any:
    return SimpleNamespace(name="ViT-B-32", encode_image=1, encode_text=1, cut_texts=None, spelt_texts=spelt)


def test_classes_and_captions_that_a_text_tower_cannot_read_are_noted() -> None:
    """The figure was chance, without a word."""
    data: Any = Dataset("birds", "val", "photographs", "0", [Labelled("0", Path("0.png"), 0)], classes=RUSSIAN)
    check_names(reader(clip_tokenizer().spelt), data, "simple", give="give names", instead="learn them")
    assert any("3 of 3 texts are in a script that the tokenizer of ViT-B-32 only takes apart" in note for note in data.notes)
    told: Any = Dataset("captions", "val", "photographs", "0", [Captioned("0", Path("0.png"), ["кошка на столе", "a cat"])])
    Retrieval().check(reader(clip_tokenizer().spelt), told)
    assert any("1 of 2 texts are in a script" in note and "кошка на столе" in note for note in told.notes)


def test_classes_that_are_asked_by_a_part_of_their_name_are_noted() -> None:
    """ "Käse, gereift" was asked as "Käse" without a word; ImageNet's names are a list of synonyms, where the first is meant."""
    names = ["Käse, gereift", "Brot", "crane, bird", "Crane, machine"]
    data: Any = Dataset("food", "val", "photographs", "0", [Labelled("0", Path("0.png"), 0)], classes=names)
    check_names(reader(None), data, "simple", give="give names", instead="learn them")
    assert data.notes == ["1 of 4 classes are asked by what stands before their comma (first: 'Käse' of 'Käse, gereift')"]


def test_a_folder_in_the_place_of_a_name_is_found_however_accents_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, one = (unicodedata.normalize(form, "modèle") for form in ("NFD", "NFC"))
    (tmp_path / apart).mkdir()
    monkeypatch.chdir(tmp_path)

    def named(name: str) -> str:
        groups: Mapping[str, Any] = {"model": {"name": name}, "dataset": {}, "task": {}}
        return str(as_on_disk(OmegaConf.create(dict(groups))).model.name)

    assert named(f"local-dir:{one}") == f"local-dir:{apart}"
    assert named(f"local-dir:{tmp_path}/{one}") == f"local-dir:{tmp_path}/{apart}"
    assert named(one) == apart
    assert named("ViT-B-32") == "ViT-B-32"


def test_no_other_network_is_proposed_for_a_file_that_holds_more_than_any_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learnt prompts beside a CLIP: its twin of another activation has no place for them either."""
    small = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    for name in ("tiny-y", "tiny-y-quickgelu"):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, {"embed_dim": 16, "vision_cfg": small, "text_cfg": text})
    state = open_clip.create_model("tiny-y", pretrained=None).state_dict()
    torch.save({**state, "prompt_learner.ctx": torch.ones(4, 32)}, tmp_path / "coop.pt")
    with pytest.raises(
        UserError, match=r"prompt_learner\.ctx\); all else fits: it was trained with 1 tensor more, which fna does not"
    ):
        OpenClipModel("tiny-y", checkpoint=str(tmp_path / "coop.pt")).build(**CPU)
    tower = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    torch.save(tower, tmp_path / "visual.pt")
    with pytest.raises(UserError, match="it is an image tower alone"):
        OpenClipModel("tiny-y", checkpoint=str(tmp_path / "visual.pt")).build(**CPU)


def test_a_file_of_openais_own_is_known_where_it_is_run_without_its_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model.pretrained=null`, as weights of one's own take it, runs them with GELU."""
    small = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-y", {"embed_dim": 16, "vision_cfg": small, "text_cfg": text})
    state = open_clip.create_model("tiny-y", pretrained=None).state_dict()
    numbers = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}

    def notes(more: dict[str, torch.Tensor], **given: Any) -> list[str]:
        torch.save({**state, **more}, tmp_path / "clip.pt")
        made = OpenClipModel("tiny-y", checkpoint=str(tmp_path / "clip.pt"), **given).build(**CPU).notes
        return [note for note in made if "OpenAI's own files" in note]

    assert "QuickGELU: model.pretrained=openai follows it" in notes(numbers)[0]
    assert notes({}) == notes(numbers, quick_gelu=True) == notes(numbers, quick_gelu=False) == []


@pytest.mark.parametrize("name", ["vit_b_32", "ViT-B/32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "MetaCLIP_ViT-B-32"])
def test_names_of_published_clips_are_told_by_their_network(name: str) -> None:
    assert near(name).startswith("did you mean ViT-B-32?")


def test_weights_that_a_library_quantised_are_told_as_such(tmp_path: Path) -> None:
    """ "Fetch it again" is no way to read them."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "quantization_config": {"quant_method": "awq"}}))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"its weights are quantised \(awq; .*\); give the model in 16 bits\."):
        VisionLanguageModel(checkpoint=str(tmp_path)).build(**CPU)


def test_the_layout_of_llavas_authors_is_told_where_the_other_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_llama"}))
    with pytest.raises(UserError, match="this is the layout of LLaVA's authors, and llava-hf on the hub has the same weights"):
        VisionLanguageModel(checkpoint=str(tmp_path)).check()


def test_a_size_of_one_number_in_brackets_is_a_square() -> None:
    """`image_size=[32]` was taken and ended in a traceback."""
    assert pixels([32]) == pixels(32) == (32, 32)
    assert TimmModel(TINY, random=True).build(**{**CPU, "image_size": [32]}).image_size == (32, 32)


@pytest.mark.parametrize("attn", ["fna", "fna_plus", "fna_local", "nystromformer"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_swapped_model_runs_without_numbers(attn: str, autocast: bool) -> None:
    """On the meta device, as tools that count memory and operations run it: torch raises when asked for autocast there."""
    with torch.device("meta"):
        net = timm.create_model(TINY, depth=2).eval()
    images = torch.empty(1, 3, 224, 224, device="meta")
    with fna.swap(net, attn, layers="all", landmarks=16), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert net(images).shape == (1, 1000)
