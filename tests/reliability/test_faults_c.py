"""More lines and files that a user can mend: what is said names the word or the file, and what is there instead."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fna.configs import build_attention
from fna.data.files import digest
from fna.data.pictures import files_below
from fna.data.tiny_imagenet import TinyImageNet
from fna.errors import UserError
from fna.models.heads import timm_labels
from fna.runner.failures import mendable
from fna.versions import settings
from tests.reliability.lines import asked

MODULE = """
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

class Speed(Enum):
    FAST = 1
    SLOW = 2

@dataclass(frozen=True)
class Geared:
    speed: Speed = Speed.FAST
    def __call__(self, q, k, v, site):
        return v

@dataclass(frozen=True)
class NotANumber:
    def __call__(self, q, k, v, site):
        return v * float("nan")

@dataclass(frozen=True)
class Particular:
    weight: float = 1.0
    def __post_init__(self):
        if self.weight > 2:
            raise ValueError(f"weight={self.weight}: at most 2.")
        if self.weight > 1:
            raise ValueError("not today")
    def __call__(self, q, k, v, site):
        return v

class Unfinished(ABC):
    @abstractmethod
    def __call__(self, q, k, v, site): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "attn").mkdir()
    (tmp_path / "mine_in_faults.py").write_text(MODULE)
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "hydra.job.id=${x}": "hydra.job.id=${x}: the config has no key x; give a value.",
        "hydra.run.dir=${nope:3}": "hydra.run.dir=${nope:3}: there is no such thing to look up",
        "hydra.run.dir=${hydra.run.dir}": "hydra.run.dir=${hydra.run.dir}: leads back to itself",
        "rows_dir=${a": "rows_dir=${a: ${ begins another key's name, as in ${seed}; close it with }, or leave it out.",
        "rows_dir=???": "rows_dir=???: ??? stands for a value that is missing; give one.",
        "attn.steps=???": "attn.steps=???: ??? stands for a value that is missing",
        "hydra.overrides.task=[x]": "hydra.overrides.task=[x]: Hydra fills that in itself; drop the word.",
        "hydra.runtime.cwd=x": "hydra.runtime.cwd=x: Hydra fills that in itself",
        "hydra.env=3": "hydra.env=3: Hydra has no such setting; drop the word.",
        "hydra.launcher=3": "hydra.launcher=3: Hydra's settings are set one by one",
        "hydra.mode=x": "hydra.mode=x: give RUN or MULTIRUN",
        "hydra.verbose=5": "hydra.verbose=5: give true or false, or the names of modules",
        "hydra.verbose=nowhere": "hydra.verbose=nowhere: give true or false",
        "hydra.verbose=[nowhere]": "hydra.verbose=[nowhere]: give true or false",
        "attn.steps=1000": "attn.steps=1000: give at most 16 Newton steps",
        "sampler.features=Q": "sampler.features=Q: give q, k, v, qk, input or sketch.",
        "mask=both mask.tokens=x": "mask.tokens=x: give massive, artifact or both.",
        "mask=both mask.pattern=x": "mask.pattern=x: give type1, type2, inside,",
        "mask=both mask.rule=x": "mask.rule=x: give channel, cls_proxy,",
        "dataset=shapes_segmented task.inference.mode=x": "task.inference.mode=x: give whole or slide.",
        "dataset=shapes_segmented task.inference.scales=[1,0]": "task.inference.scales=[1,0]: give 1 to 20 sizes",
        "dataset=shapes_segmented task.head.rate=1e30": "task.head.rate=1e+30: give a number from 1e-06 to 100.",
        "dataset=shapes_single task=probe task.rates=[1e30]": "task.rates=[1e+30]: give a list of rates, each from 1e-06 to 100.",
        "dataset=camvid dataset.root=/nowhere dataset.classes=[a,b": "give a list [...], each a text, or one of ade20k, camvid,",
    }.items(),
)
def test_the_word_is_named_whole(words: str, said: str) -> None:
    found = asked(words.split())
    assert found is not None, "was taken"
    assert found.startswith(said) or "dataset.classes" in words
    assert said in found


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("_target_: mine_in_faults.Particular\nweight: 3\n", "mine.yaml: attn.weight=3: at most 2."),
        ("_target_: mine_in_faults.Particular\nweight: 1.5\n", "mine.yaml: attn: not today"),
        ("_target_: mine_in_faults.Unfinished\n", "mine.yaml: mine_in_faults.Unfinished: is abstract, it lacks __call__;"),
        ("_target_: mine_in_faults.NotANumber\n", "NotANumber returned NaN or infinity for 13 tokens"),
    ],
)
def test_what_a_method_of_ones_own_raises_is_told_with_its_file(folder: Path, yaml: str, said: str) -> None:
    (folder / "attn" / "mine.yaml").write_text(yaml)
    assert said in str(asked(["attn=mine"]))


def test_a_method_may_have_fields_of_an_enum(folder: Path) -> None:
    """By the name of a member or its value; rows of two members are two rows."""
    (folder / "attn" / "mine.yaml").write_text("_target_: mine_in_faults.Geared\nspeed: FAST\n")
    fast, slow = build_attention("mine"), build_attention("mine", speed="SLOW")
    assert (fast.speed.value, slow.speed.value) == (1, 2)
    assert settings(build_attention("mine", speed=2)) == settings(slow) != settings(fast)
    assert asked(["attn=mine", "attn.speed=SLOW"]) is None
    assert asked(["attn=mine", "attn.speed=quick"]) == "attn.speed=quick: give FAST or SLOW."


@pytest.mark.parametrize(
    ("param", "said"),
    [("landmarks: 8,x", "landmarks=x: give a count from 1 to 1000000"),
     ("attn: fna,exat", "attn=exat: no such attn; did you mean exact?"),
     ("landmarks: '8,(16'", "landmarks=8,(16: cannot be read"), ("landmarks: 8,16", "")],
)  # fmt: skip
def test_what_an_experiment_sweeps_over_is_held_against_what_there_is(folder: Path, param: str, said: str) -> None:
    (folder / "experiment").mkdir()
    file = folder / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\nhydra:\n  sweeper:\n    params:\n      {param}\n")
    found = asked(["experiment=mine"])
    assert (found is None) if not said else (str(found).startswith(f"{file}: ") and said in str(found))


def test_a_dead_link_that_may_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "more").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"more: a link to .*gone, which is not there"):
        files_below(tmp_path)


def test_the_remedy_for_missing_files_is_one_that_the_reader_has(tmp_path: Path) -> None:
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "val_annotations.txt").write_text("a.JPEG\tn1\nb.JPEG\tn2\n")
    with pytest.raises(UserError, match=r"unpack tiny-imagenet-200\.zip again") as refused:
        TinyImageNet(str(tmp_path)).load(None)
    assert "dataset.images" not in str(refused.value)
    assert digest("val", [])


def test_a_file_without_the_right_to_it_is_told_as_such(tmp_path: Path) -> None:
    said = mendable(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.txt")))
    assert str(said) == f"{tmp_path / 'a.txt'}: Permission denied; give yourself the right to it, or name another place."


def test_timms_own_config_names_the_rows_of_a_head() -> None:
    config = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat"}}
    assert timm_labels(config, 2) == (["n1", "n2"], ["cat", "n2"])
    assert timm_labels({"label_names": {"0": "cat", "1": "dog"}}, 2) == (["cat", "dog"], ["cat", "dog"])
    assert timm_labels(config, 3) == timm_labels({}, 2) == timm_labels({"label_names": [1, 2]}, 2) == (None, None)
