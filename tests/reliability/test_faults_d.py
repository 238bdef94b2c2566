"""Whole numbers of numpy, plans of blocks, inverse=auto, a user without a home: faults that a later pair of eyes found."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors import SafetensorError
from torch import Tensor

import fna
from fna.configs import CONF, build_attention
from fna.data import contents
from fna.errors import UserError
from fna.folders import cache_folder
from fna.models.decoder import keep
from fna.ops.kernels import build, paths
from fna.runner.chosen import counted as landmarks_of
from fna.runner.versus import composed
from fna.schema import register
from fna.surgery.plan import parse_layers
from fna.values import counted, held
from tests.reliability.lines import asked


@pytest.fixture
def q() -> Tensor:
    return torch.randn(1, 2, 17, 8, generator=torch.Generator().manual_seed(0))


def test_numbers_of_numpy_are_numbers(q: Tensor) -> None:
    """As they come out of ``for count in np.arange(4, 9)``; one that is not whole still is none."""
    expected = fna.attention(q, q, q, landmarks=4, sampler="random", seed=3, steps=6)
    found = fna.attention(q, q, q, landmarks=np.int64(4), sampler="random", seed=np.uint32(3), steps=np.int16(6), prefix=np.int8(1))
    assert torch.equal(found, expected)
    assert fna.sample_landmarks(q[0], np.int64(4)).shape == (2, 4)
    grid = tuple(np.array([4, 4]))
    assert fna.attention(q, q, q, "fna_local", landmarks=np.float64(0.5), grid=grid).shape == q.shape
    for said, wrong in (("landmarks=4.5", {"landmarks": np.float64(4.5)}), ("steps=2.5", {"steps": np.float32(2.5)})):
        with pytest.raises(UserError, match=said):
            fna.attention(q, q, q, **wrong)
    with pytest.raises(UserError, match=r"count=2\.5: give a whole number"):
        fna.sample_landmarks(q[0], np.float64(2.5))
    assert type(held(int, np.int64(7), "rounds")) is int
    assert type(held(Literal[1, 2], 2.0, "turn")) is int


@pytest.mark.parametrize("layers", [np.array([1, 3]), torch.tensor([1, 3]), np.array([1, 3], dtype=np.uint8)])
def test_blocks_may_come_as_an_array(layers: object) -> None:
    assert parse_layers(layers, 6) == (1, 3)  # type: ignore[arg-type]
    assert parse_layers(np.int64(2), 6) == (2,)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"'1\.5' is not a block"):
        parse_layers(np.array([1.5]), 6)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"'lasthalf' is not a block, a range or a name; did you mean last-half\?"):
        parse_layers("lasthalf", 6)


@pytest.mark.parametrize("method", ["fna", "fna_plus", "nystromformer", "nystrom_ratio"])
def test_what_inverse_auto_would_pass_over_is_refused(method: str) -> None:
    build_attention(method, inverse="auto")
    assert str(asked([f"attn={method}", "attn.inverse=auto", "attn.steps=9"])).startswith("attn.steps=9: inverse=auto has its own")
    with pytest.raises(UserError, match=r"ridge=0\.01: inverse=auto has its own; leave it out"):
        build_attention(method, inverse="auto", ridge=0.01)


def test_landmarks_and_samplers_of_any_method_of_a_plan_can_be_set() -> None:
    """They are told in the result as well."""
    plan = "layers={0-3: exact, 4-7: fna}"
    assert asked([plan, "attn=exact", "landmarks=16", "sampler=random"]) is None
    assert "counts no landmarks" in str(asked(["layers={0-7: exact}", "attn=exact", "landmarks=16"]))
    cfg, names = _composed(plan, "attn=exact", "landmarks=16")
    assert landmarks_of(cfg, names) == 16
    assert landmarks_of(*_composed("layers={0-7: exact}", "attn=exact")) is None


def test_a_plan_that_is_typed_replaces_that_of_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra would merge the two, and blocks that nobody asked for would be changed."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nlayers: {0-3: fna, 4-7: fna}\n")
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    path = f"hydra.searchpath=[file://{tmp_path}]"
    assert dict(_composed("experiment=mine", path)[0].layers) == {"0-3": "fna", "4-7": "fna"}
    assert dict(_composed("experiment=mine", "layers={4-7: fna}", path)[0].layers) == {"4-7": "fna"}


def _composed(*words: str):  # type: ignore[no-untyped-def]
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", list(words), return_hydra_config=True)
        names = {group: str(choice) for group, choice in whole.hydra.runtime.choices.items() if "/" not in group}
        return (one := composed(whole, names, list(words))[0]).cfg, one.names


def test_an_option_called_as_one_of_fnas_own_is_refused_unless_it_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra would take fna's, and the library the other."""
    (tmp_path / "attn").mkdir()
    file = tmp_path / "attn" / "fna.yaml"
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    file.write_text((CONF / "attn" / "fna.yaml").read_text())  # a copy of conf/
    assert asked(["attn=fna"]) is None
    file.write_text(file.read_text().replace("steps: 6", "steps: 3"))
    said = f"{file}: fna has attn=fna itself, which Hydra would take; give yours another name."
    assert asked(["attn=fna"]) == said
    with pytest.raises(UserError) as refused:
        build_attention("fna")
    assert str(refused.value) == said
    assert asked(["attn=exact"]) is None


def test_a_file_that_is_called_otherwise_or_lacks_a_blank_is_told_how_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attn").mkdir()
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    for name in ("mine.yml", "Mine2.YAML"):
        (tmp_path / "attn" / name).write_text("_target_: fna.ops.exact.Exact\n")
    assert asked(["attn=mine"]) == f"attn=mine: {tmp_path / 'attn' / 'mine.yml'} is not read; rename it to mine.yaml."
    assert str(asked(["attn=Mine2"])).endswith("Mine2.YAML is not read; rename it to Mine2.yaml.")
    (tmp_path / "attn" / "mine.yaml").write_text("_target_:fna.ops.exact.Exact\n")
    assert "mine.yaml: _target_:fna.ops.exact.Exact: put a blank behind the colon" in str(asked(["attn=mine"]))


def test_a_key_that_hydra_cannot_read_is_named_and_no_remedy_with_it_is_told() -> None:
    assert str(asked(["layers.0-3=fna"])).startswith("layers.0-3=fna: 'layers.0-3' is no knob's name")


def test_a_user_without_a_home_is_told_what_to_name_and_needs_it_only_where_things_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, q: Tensor
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "a").write_text("a")
    monkeypatch.delenv("FNA_CACHE", raising=False)
    monkeypatch.delenv("FNA_CPU_PATH", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(paths, "taken", {})
    monkeypatch.setattr(paths, "LEAST", 1)
    with pytest.raises(UserError, match="name another with FNA_CACHE=FOLDER"):
        cache_folder()
    with pytest.raises(build.NotBuilt, match="FNA_CACHE=FOLDER"):
        build._cache()
    assert len(contents.sha256s([tmp_path / "a"])[tmp_path / "a"]) == 64
    assert fna.attention(q, q, q, landmarks=4).shape == q.shape
    assert paths.taken


class Filling:
    """Saves half of itself, then finds no room."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save_pretrained(self, place: Path) -> None:
        (place / "model.safetensors").write_text("half")
        raise self.error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")])
def test_weights_that_find_no_room_are_one_line_with_the_path_and_leave_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError, match=f"{tmp_path / 'weights'}: cannot be written .*No space left.*; free some room there"):
        keep(tmp_path / "weights", Filling(error))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot be written"):
        keep(tmp_path / "gone" / "weights", Filling(error))


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(number, "picture") for number in (0, 1, 2, 1200)] == ["0 pictures", "1 picture", "2 pictures", "1,200 pictures"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]


def test_spaces_around_the_sign_are_told_of_where_a_knob_stands_alone() -> None:
    assert (
        str(asked(["attn", "=", "fna"]))
        == "attn: is no knob=value; write knob=value without spaces around =, such as landmarks=64."
    )
