"""Cases of a twelfth pair of eyes, what of them failed: heads without bias or behind a BatchNorm, marks that
Windows puts before JSON, the same name in other characters, what lies deeper than it should."""

from __future__ import annotations

import json
import re
import warnings
from codecs import BOM_UTF8
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from fna.data.imagefolder import ImageFolder
from fna.data.layouts import split_folder
from fna.data.llava_bench import LlavaBench
from fna.data.places import composed
from fna.data.scene_files import foreign_picture
from fna.data.shapes import Shapes
from fna.errors import UserError
from fna.models.checkpoint_files import load, tensor_names
from fna.models.checkpoints import unpack
from fna.models.decoder import TextModel
from fna.models.llava import VisionLanguageModel
from fna.models.open_clip import ZOO, OpenClipModel
from fna.models.open_clip_files import check_config
from fna.ops.taken import tally, told_if_nothing
from fna.options import load_option
from fna.runner.spelled import as_on_disk
from fna.runner.typed import as_typed
from tests.conftest import Cli
from tests.reliability.test_faults_n import CPU, HEAD, body, logits, source, stock

# 4 and 16: checkpoints

WEIGHT, BIAS = HEAD["head.weight"], HEAD["head.bias"]


@pytest.mark.parametrize("name", ["head", "head.1", "fc", "classifier"])
@pytest.mark.parametrize("asked", [None, 5])
def test_a_linear_head_without_bias_is_a_head(name: str, asked: int | None, tmp_path: Path) -> None:
    """Its logits are those of a bias of zeros; it was refused, or left out as a projection head."""
    model = source({**body(), f"{name}.weight": WEIGHT}, tmp_path, num_classes=asked).build(**CPU)
    torch.testing.assert_close(logits(model), stock({**body(), "head.weight": WEIGHT, "head.bias": torch.zeros(5)}))
    assert any(f"took {name}.weight as head.weight" in note for note in model.notes) == (name != "head")


def probe(eps: float, **settings: Any) -> nn.Sequential:
    """A BatchNorm that has seen features, and a linear layer."""
    torch.manual_seed(1)
    norm, linear = nn.BatchNorm1d(16, eps=eps, **settings), nn.Linear(16, 5)
    for _ in range(3):
        norm(3 * torch.randn(32, 16) + torch.randn(16))
    return nn.Sequential(norm, linear).eval()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_before_the_head_is_run_with_it(affine: bool, bias: bool, tmp_path: Path) -> None:
    """MAE's linear probe is BatchNorm1d(affine=False, eps=1e-6) and a linear layer; a note says what was made of them."""
    head = probe(1e-5 if affine else 1e-6, affine=affine)
    state = {f"head.{name}": tensor for name, tensor in head.state_dict().items() if bias or name != "1.bias"}
    model = source({"model": {**body(), **state}}, tmp_path).build(**CPU)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert model.encode_image is not None
    with torch.no_grad():
        wanted = head(model.encode_image(images)) - (0 if bias else head[1].bias)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    (note,) = (note for note in model.notes if "took" in note)
    assert f"with head.0, a BatchNorm right before it (eps {'1e-05' if affine else '1e-06'}, which files do not say)" in note


@pytest.mark.parametrize(
    ("state", "layers"),
    [
        ({"0.weight": WEIGHT[0], "0.bias": WEIGHT[1], "1.weight": WEIGHT, "1.bias": BIAS}, r"head\.0 \(LayerNorm\), head\.1"),
        ({"0.running_mean": WEIGHT[0], "0.running_var": WEIGHT[1] ** 2, "2.weight": WEIGHT}, r"head\.0 \(BatchNorm\), head\.2"),
        (
            {"bn.running_mean": WEIGHT[0], "bn.running_var": WEIGHT[1] ** 2, "fc.weight": WEIGHT},
            r"head\.bn \(BatchNorm\), head\.fc",
        ),
    ],
)
def test_a_head_that_is_not_run_is_told_by_its_layers(state: dict[str, Tensor], layers: str, tmp_path: Path) -> None:
    """Between head.0 and head.2 there may be a ReLU, which tensors do not show."""
    saved = {**body(), **{f"head.{name}": tensor for name, tensor in state.items()}}
    with pytest.raises(UserError, match=rf"its head is of several layers \({layers}; \d tensors\), which fna does not run"):
        source(saved, tmp_path, num_classes=5).build(**CPU)
    model = source(saved, tmp_path).build(**CPU)
    assert model.classify is None
    assert any("was left out" in note for note in model.notes)


# 10 and 16: JSON of tools on Windows


def marked(file: Path) -> Path:
    """The file with a byte-order mark, as tools on Windows begin one."""
    file.write_bytes(BOM_UTF8 + file.read_bytes())
    return file


def test_an_index_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "part.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    marked(index)
    assert load(index)["a"].tolist() == [1, 1]
    assert tensor_names(index) == ["a"]


def test_an_open_clip_config_beside_weights_is_read_with_its_mark(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 16}}))
    marked(tmp_path / "open_clip_config.json")
    check_config(tmp_path, {"embed_dim": 16}, (), "X")
    with pytest.raises(UserError, match="embed_dim is 16, X has 32"):
        check_config(tmp_path, {"embed_dim": 32}, (), "X")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_a_mark_that_another_library_stumbles_over_is_named(name: str, tmp_path: Path) -> None:
    """transformers takes its own defaults for a generation_config.json that it cannot read, and says nothing."""
    for file in (ZOO / "llava_shapes").glob("*.json"):
        copyfile(file, tmp_path / file.name)
    marked(tmp_path / name)
    said = rf"{name}: begins with a byte-order mark, which transformers does not read; save it as UTF-8 without one"
    for model in (VisionLanguageModel(checkpoint=str(tmp_path)), TextModel(checkpoint=str(tmp_path))):
        with pytest.raises(UserError, match=said):
            model.check()


def test_a_mark_in_a_folder_that_open_clip_reads_is_named(tmp_path: Path) -> None:
    copyfile(ZOO / "clip_shapes" / "open_clip_config.json", tmp_path / "open_clip_config.json")
    marked(tmp_path / "open_clip_config.json")
    with pytest.raises(UserError, match=r"open_clip_config.json: begins with a byte-order mark, which open_clip does not read"):
        OpenClipModel(f"local-dir:{tmp_path}").check()


def test_a_mark_before_hydras_first_line_is_named(tmp_path: Path) -> None:
    """The line that puts an experiment's keys at the root was said to be missing."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nlandmarks: 16\n")
    load_option("experiment", "mine", [tmp_path])
    marked(tmp_path / "experiment" / "mine.yaml")
    with pytest.raises(UserError, match=r"mine\.yaml: begins with a byte-order mark, which Hydra does not read"):
        load_option("experiment", "mine", [tmp_path])


# 15: texts that look like numbers, in files of one's own

GLOBAL = "# @package _global_\n"


@pytest.mark.parametrize(
    ("file", "said", "word"),
    [
        ("dataset/kin.yaml", "defaults: [images]\nroot: 1_000", "dataset=kin"),
        ("dataset/kin.yaml", "defaults: [imagefolder]\nsplit: 010", "dataset=kin"),
        (
            "experiment/mine.yaml",
            GLOBAL + "defaults: [override /dataset: images]\ndataset: {root: 1_000}",
            "experiment=mine",
        ),
        ("experiment/mine.yaml", GLOBAL + "model: {checkpoint: 0x10}", "experiment=mine"),
    ],
)
def test_a_number_in_a_file_of_ones_own_that_is_a_text_is_told(
    file: str, said: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YAML reads 1_000 as 1000: another folder, whose pictures would be read without a word."""
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(said)
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    with pytest.raises(UserError, match=rf"{file}: [a-z.]+: (1_000|010|0x10) is the number \d+ to YAML; put it in quotes: '\1'"):
        as_typed([word])
    key = {"kin": "dataset.split=val" if "split" in said else "dataset.root=x"}.get(word.partition("=")[2], "")
    assert not key or as_typed([word, key]) == [word, key]  # what is typed counts


def test_numbers_in_a_file_of_ones_own_that_are_numbers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attn").mkdir()
    (tmp_path / "attn" / "kin.yaml").write_text("defaults: [fna]\nsteps: 1_0")
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    assert as_typed(["attn=kin"]) == ["attn=kin"]


# 1 and 10: the same name in other characters

ONE, TWO = "caf\u00e9", "cafe\u0301"  # é as one sign, and as e with an accent


def test_paths_are_taken_as_the_disk_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS hands over names with accents apart, JSON and most keyboards with accents in their letters."""
    (tmp_path / TWO / ONE).mkdir(parents=True)
    (tmp_path / f"{ONE}.pt").touch()
    monkeypatch.chdir(tmp_path)
    for root in (ONE, str(tmp_path / ONE)):
        typed = {
            "dataset": {"root": root, "split": TWO, "name": ONE},
            "model": {"checkpoint": f"{TWO}.pt"},
            "task": {"prompt": ONE},
        }
        found = as_on_disk(OmegaConf.create({**typed, "task": {"prompt": f"{ONE} {{}}"}}))
        assert found.dataset == {"root": root.replace(ONE, TWO), "split": ONE, "name": ONE}
        assert (found.model.checkpoint, found.task.prompt) == (f"{ONE}.pt", f"{ONE} {{}}")


def test_classes_to_learn_from_may_be_written_otherwise(tmp_path: Path) -> None:
    """Labels follow the names, not the signs that they are written in: sorted by these, é comes after z, or before f."""
    for split, name, shade in (("train", ONE, 0), ("val", TWO, 1)):
        for place, one in enumerate((name, "cafz", "ab")):
            (tmp_path / split / one).mkdir(parents=True)
            Image.new("RGB", (8, 8), (shade, place, 0)).save(tmp_path / split / one / "a.png")
    data = ImageFolder(str(tmp_path), split="val", train="train").load(None)
    assert data.training is not None
    learnt = data.training()
    assert [composed(name) for name in data.classes] == [composed(name) for name in learnt.classes] == ["ab", "cafz", ONE]
    assert {composed(one.key): one.label for one in data.examples} == {composed(one.key): one.label for one in learnt.examples}


def test_what_is_said_of_an_image_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{TWO}.png")
    said = {
        "questions": {"question_id": 1, "image": f"{ONE}.png", "text": "?", "category": "c"},
        "answers_gpt4": {"question_id": 1, "text": "yes"},
        "context": {"image": f"{TWO}.png", "caption": "a cup"},
    }
    for name, line in said.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
    (question,) = LlavaBench(str(tmp_path)).load(None).examples
    assert (question.context, question.image.is_file()) == ("a cup", True)


# 16: parts of a checkpoint by the word that the file has


@pytest.mark.parametrize(
    ("loaded", "part", "others"),
    [
        ({"module": HEAD, "module_ema": HEAD}, "module", ("module_ema",)),
        ({"state_dict": {f"module.{name}": one for name, one in HEAD.items()}}, "state_dict.module", ()),
        ({"teacher": {"module": HEAD}, "student": {"module": HEAD}}, "student.module", ("teacher",)),
        ({f"_orig_mod.{name}": one for name, one in HEAD.items()}, "_orig_mod", ()),
    ],
)
def test_a_container_that_is_called_as_a_wrapper_is_a_part(loaded: dict[str, Any], part: str, others: tuple[str, ...]) -> None:
    """DeepSpeed saves the model under "module"; that is what people type."""
    found = unpack(loaded, HEAD, "FILE", part)
    assert (found.state.keys(), found.others) == (HEAD.keys(), others)
    with pytest.raises(UserError, match=r"model\.part=modul: FILE holds no such part"):
        unpack(loaded, HEAD, "FILE", "modul")


# 1: what lies deeper than it should


def test_imagenets_split_is_found_where_it_was_unpacked(tmp_path: Path) -> None:
    """ILSVRC/Data/CLS-LOC is what the archive brings; the line says what to type."""
    val = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    (val / "n01440764").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"but {re.escape(str(val))} is there: give dataset\.root={re.escape(str(val.parent))}\.$"):
        split_folder(tmp_path, "val")
    assert split_folder(val.parent, "val") == val


def test_scenes_are_not_drawn_among_pictures_however_deep_these_lie(tmp_path: Path) -> None:
    deep = tmp_path / "2024" / "holidays" / "sea" / "day" / "raw"
    deep.mkdir(parents=True)
    assert foreign_picture(tmp_path) is None
    Image.new("RGB", (8, 8)).save(deep / "a.png")
    assert foreign_picture(tmp_path) == deep / "a.png"
    with pytest.raises(UserError, match=r"holds pictures \(a\.png\), and dataset=shapes draws its own and reads none"):
        Shapes(root=str(tmp_path), count=1, size=16).load(1)


def test_scenes_that_were_drawn_are_no_pictures_of_somebodys(tmp_path: Path) -> None:
    Shapes(root=str(tmp_path), count=2, size=16).load(1)
    assert foreign_picture(tmp_path) is None
    Shapes(root=str(tmp_path), count=3, size=16).load(1)


# 17: what cannot be done is said before what has to be installed for it


def test_a_decoder_is_told_of_its_attention_before_a_package_is_asked_for(cli: Cli) -> None:
    done = cli("model=smollm2", "model.package=not_there", "dataset=longtext", "attn=fna")
    assert done.returncode == 1
    assert "attn=fna: model=smollm2 attends causally" in done.stderr
    assert "not installed" not in done.stderr


# 4: a mask that takes nothing away


@pytest.mark.parametrize("found", [False, True])
def test_a_mask_that_finds_no_token_says_so(found: bool) -> None:
    chosen = torch.zeros(2, 4, dtype=torch.bool)
    chosen[1, 2] = found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with told_if_nothing("fna mask=massive"):
            for one in chosen:
                tally(one[None])
        with told_if_nothing("no mask"):
            pass
    said = ["fna mask=massive: mask: its rule found no token in any image: nothing was masked"] * (not found)
    assert [str(one.message).partition(" (")[0] for one in caught] == said
