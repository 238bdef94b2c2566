"""Cases that fresh eyes found of the kinds 11 to 20 of issue 11: paths under ~, adapters beside weights, other libraries' words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError
from safetensors.torch import save_file

from fna.configs import CONF, build_attention, instantiate, load_option
from fna.data.base import Dataset, Pictured
from fna.errors import UserError
from fna.models.checkpoints import unpack
from fna.models.decoder import TextModel
from fna.models.hf import HuggingFaceModel
from fna.models.llava import VisionLanguageModel
from fna.models.open_clip import OpenClipModel
from fna.models.timm import TimmModel
from fna.runner.cli import checked
from fna.runner.compare import Comparison
from fna.runner.files import checked_folder, take
from fna.runner.refusals import one_line
from fna.schema import check_knobs, register
from fna.values import Budget, Count, Landmarks, held
from tests.reliability.lines import asked


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, and a current folder beside it, in which nothing called ~ may ever appear."""
    folder, here = tmp_path / "home", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(here)
    return folder


def test_a_path_under_the_home_in_quotes_or_in_a_yaml_file_is_written_out(home: Path) -> None:
    """No shell does so there; the folder of that name in the current one is what nobody means."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["rows_dir='~/rows'", "judge.cache='~/judged'", "expected='~/theirs.csv'"])
    check_knobs(cfg)
    assert (cfg.rows_dir, cfg.judge.cache, cfg.expected) == tuple(f"{home}/{name}" for name in ("rows", "judged", "theirs.csv"))
    node = OmegaConf.create({"dataset": {"_target_": "fna.data.images.Images", "root": "~/pictures"}})
    assert instantiate(node.dataset).root == node.dataset.root == f"{home}/pictures"


@pytest.mark.parametrize("path", ["~/runs/1", "~nobody-is-called-so/runs"])
def test_no_folder_called_like_a_home_is_made_in_the_current_one(home: Path, path: str) -> None:
    """Hydra's own folders, which it makes as they are typed, are refused with how to write them."""
    for use in (lambda: checked_folder(path), lambda: take(Path(path), "hydra.run.dir")):
        with pytest.raises(UserError, match="shells know ~ at the start of a word alone; write"):
            use()
    with pytest.raises(UserError, match=rf"write {home}/runs\."):
        checked_folder("~/runs")
    assert not [*Path.cwd().iterdir()]


def test_a_comparison_is_saved_in_the_home_that_was_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fna.runner.compare.table.write_markdown", lambda folder: folder)
    monkeypatch.setattr("fna.runner.compare.write_page", lambda folder: folder)
    assert Comparison({}, {"a.png": b"1"}).save("~/page") == home / "page"
    assert (home / "page/result.json").is_file()
    assert (home / "page/a.png").is_file()
    assert not [*Path.cwd().iterdir()]


def test_a_count_with_a_point_is_that_count_and_no_row_of_its_own() -> None:
    """64.0 was another row than 64, computed once more, and 64.0 in the result."""
    assert asked(["landmarks=64.0"]) == "landmarks=64.0: is a whole number with a point or an exponent; write landmarks=64"
    assert asked(["landmarks=1.0"]) == "landmarks=1.0: is a whole number with a point or an exponent; write landmarks=1"
    assert asked(["landmarks=0.5"]) is None
    for kind in (Landmarks, Budget, Count | float):
        assert type(held(kind, 64.0, "count")) is int
        assert held(kind, 0.5, "count") == 0.5
    assert type(held(Budget, 1.0, "budget")) is float  # all of them; one alone is no budget
    assert repr(build_attention("fna", landmarks=64.0)) == repr(build_attention("fna", landmarks=64))


def adapter(folder: Path) -> Path:
    """What PEFT's save_pretrained leaves."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    save_file({"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.zeros(4, 8)}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("beside", [(), ("model.safetensors", "config.json")])
def test_an_adapter_in_a_folder_is_not_left_out_without_a_word(tmp_path: Path, beside: tuple[str, ...]) -> None:
    """Of the weights beside it the figures would be those of the model before its training."""
    folder = adapter(tmp_path / "tuned")
    for name in beside:
        (folder / name).write_text("{}")
    rest = "; for the weights as they were before" if beside else r"\.$"
    said = rf"tuned: holds an adapter \(adapter_config\.json\).*save the whole model{rest}"
    for source in (
        TimmModel("vit_tiny_patch16_224", checkpoint=str(folder)),
        OpenClipModel("ViT-B-32", checkpoint=str(folder)),
        HuggingFaceModel(checkpoint=str(folder)),
        HuggingFaceModel(name=str(folder)),
        VisionLanguageModel(checkpoint=str(folder)),
        TextModel(checkpoint=str(folder)),
    ):
        with pytest.raises(UserError, match=said):
            source.check()


@pytest.mark.parametrize("beside", ["blocks.0.attn.qkv.lora_A", "blocks.0.attn.qkv.lora_A.default.weight", "lora.blocks.0.lora_B"])
def test_unmerged_adapters_among_the_tensors_are_refused_wherever_they_lie(beside: str) -> None:
    """Also where the weights that they change are whole beside them, and would run without."""
    state = {"blocks.0.attn.qkv.weight": torch.zeros(8, 8), beside: torch.zeros(4, 8)}
    with pytest.raises(UserError, match=r"tuned\.pt: it holds LoRA adapters.*merge them"):
        unpack(state, {"blocks.0.attn.qkv.weight"}, "tuned.pt")
    with pytest.raises(UserError, match="it holds LoRA adapters"):
        unpack({"model": state}, {"blocks.0.attn.qkv.weight"}, "tuned.pt", part="model")


def test_a_config_that_is_not_there_is_told_with_where_ones_own_options_go() -> None:
    """Hydra's own line lists providers and search paths."""
    for words in (["--config-name=mine"], ["--config-name", "mine", "attn=fna"]):
        with pytest.raises(UserError, match=r"^--config-name=mine: no such config; leave it out: .* FNA_CONF_DIR"):
            checked(words)
    assert checked(["--config-name=config", "attn=fna"]) == ["--config-name=config", "attn=fna"]


def test_a_place_of_the_environment_inside_a_path_is_told_how_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OmegaConf names no key, the line names what was looked up, not a key called "the config"."""
    monkeypatch.setenv("HOME", "/home/somebody")
    error = InterpolationKeyError("Interpolation key 'HOME' not found")
    assert one_line(error) == ("${HOME}: the config has no key HOME; of the environment write '${oc.env:HOME}' in its place")


def test_a_mistyped_target_is_not_told_to_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "attn").mkdir()
    (tmp_path / "attn/mine.yaml").write_text("# mine\n_target: mine.Mine\n")
    with pytest.raises(UserError, match=r"attn/mine\.yaml: _target: did you mean _target_\?"):
        load_option("attn", "mine", [tmp_path])


def test_names_that_are_utf_8_are_not_blamed_for_a_locale_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LC_ALL=C and PYTHONUTF8=0 Python reads the name of a folder such as Bücher as bytes."""
    read = "Bücher".encode().decode("ascii", "surrogateescape")
    made = {"split": "val", "domain": "photographs", "digest": "", "examples": [Pictured(read, Path(read))]}
    with pytest.raises(UserError, match=r"is no name in UTF-8; rename it\.$"):
        Dataset("own", **made)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match=r"names of files are read as ascii here: set PYTHONUTF8=1\.$"):
        Dataset("own", **made)
