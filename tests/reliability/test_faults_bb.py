"""Cases of an eighteenth pair of eyes, what of them failed: knobs that do nothing beside others, lists and paths on the command
line, what comes before and after a run, attention of one's own classes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor

import fna
from fna.configs import CONF
from fna.errors import UserError
from fna.ops import absorbed
from fna.ops.contract import Site
from fna.ops.landmarks import Landmarks
from fna.report.notes import told
from fna.runner.asked import ask
from fna.runner.cli import checked
from fna.runner.versus import composed
from fna.schema import register
from tests.reliability.lines import asked

ROOT = Path(__file__).resolve().parents[2]


def notes(*words: str) -> Sequence[str]:
    """What a run that these words ask for is noted before anything is loaded."""
    register()
    GlobalHydra.instance().clear()
    overrides = checked(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=overrides, return_hydra_config=True)
        names = {group: str(name) for group, name in cfg.hydra.runtime.choices.items() if "/" not in group}
        cfg = type(cfg)({key: value for key, value in cfg.items_ex(resolve=False) if key != "hydra"})
        return ask(composed(cfg, names, overrides), overrides).notes


# 1: knobs that do nothing where they are given


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        ("tolerance=0.2", "tolerance=0.2"),
        ("layers=auto tolerance=0.2", "tolerance=0.2"),  # which blocks are faster: no error is measured
        ("timing.enabled=false timing.rounds=5", "timing.rounds=5"),
        ("timing.enabled=false timing.batch_size=2", "timing.batch_size=2"),
        ("model=llava_shapes dataset=shapes_asked attn=exact kv=fna layers=all", "layers=all"),
        ("model=llava_shapes dataset=shapes_asked attn=exact kv=fna workers=2", "workers=2"),
        ("model=llava_shapes dataset=shapes_asked attn=exact kv=fna data_cache=true", "data_cache=true"),
        ("dataset=shapes_segmented task=fidelity dataset.train_count=9", "dataset.train_count=9"),
        ("model=vit model.random=true model.num_classes=9 dataset=shapes_single task=classification task.templates=openai",
         "task.templates=openai"),
        ("""versus=["attn=fna tolerance=0.5"]""", "versus: tolerance=0.5"),
    ],
)  # fmt: skip
def test_a_knob_that_does_nothing_beside_the_others_is_noted(words: str, idle: str) -> None:
    parts = [words] if words.startswith("versus") else words.split()
    assert any(note.startswith(f"{idle}: does nothing here, for ") for note in notes(*parts))


@pytest.mark.parametrize(
    "words",
    [
        "landmarks=auto tolerance=0.2",
        "timing.enabled=false",
        "timing.rounds=5 timing.batch_size=2",
        "timing.enabled=false layers=auto timing.batch_size=2",  # auto measures on such a batch
        "model=llava_shapes dataset=shapes_asked attn=exact kv=fna strict=true batch_size=4",
        "dataset=shapes_segmented dataset.train_count=9",
        "dataset=shapes_single task=classification task.templates=openai",
        "layers=all attn=exact workers=2 data_cache=true strict=true gallery=2",
    ],
)
def test_knobs_that_are_used_are_not_noted(words: str) -> None:
    assert not [note for note in notes(*words.split()) if "does nothing" in note]


# 2: lists, names and texts on the command line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('versus=["fna"]', "did you mean attn=fna?"),
        ('versus=["random"]', "did you mean sampler=random?"),
        ("dataset=label_maps dataset.classes=cat,dog", "as one list write 'dataset.classes=[cat,dog]'"),
        ("model=vit model.mean=0.5,0.5,0.5", "as one list write 'model.mean=[0.5,0.5,0.5]'"),
        ("dataset=shapes_single task=probe task.rates=0.1,1", "as one list write 'task.rates=[0.1,1]'"),
        ("dataset=shapes_segmented task.inference.scales=1.0,1.5", "as one list write 'task.inference.scales=[1.0,1.5]'"),
        ("rows_dir=none", "leave it out, or write rows_dir=./none"),
        ("dataset=llava_bench judge.cache=None", "leave it out, or write judge.cache=./none"),
        ("expected=none", "write expected=null"),
        ("dataset=imagefolder dataset.classes=none", "write dataset.classes=null"),
    ],
)
def test_a_word_that_means_something_else_is_told_what_to_write(words: str, said: str) -> None:
    assert said in str(asked(words.split()))


@pytest.mark.parametrize(
    "words",
    [
        "attn.steps=3,6",
        "model=vit model.name=vit_tiny_patch16_224,vit_small_patch16_224",
        "dataset=shapes_single task=classification task.templates=simple,openai",  # no sentences with {}: names of lists
        "attn=fna,exact",
    ],
)
def test_values_that_make_no_list_are_told_as_a_sweep_alone(words: str) -> None:
    assert str(asked(words.split())).endswith("several values are a sweep, which needs -m.")


@pytest.mark.parametrize("words", ["rows_dir=./none", "mask=both mask.blocks=none", "logger=none", "dataset.root=./none"])
def test_none_is_taken_where_it_is_meant(words: str) -> None:
    assert asked(words.split()) is None


@pytest.mark.parametrize(
    "words",
    [
        "attn.steps=${oc.env:FNA_TEST_NUMBER}",
        "model=vit model.random=true model.depth=${oc.env:FNA_TEST_NUMBER} dataset=shapes_single task=fidelity",
        "dataset=shapes_segmented task.head.steps=${oc.env:FNA_TEST_NUMBER}",
        "mask=both mask.threshold=${oc.env:FNA_TEST_NUMBER}",
        'versus=["attn.steps=${oc.env:FNA_TEST_NUMBER}"]',
    ],
)
def test_numbers_out_of_the_environment_serve_keys_of_groups_too(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNA_TEST_NUMBER", "12")
    assert asked(words.split()) is None
    monkeypatch.setenv("FNA_TEST_NUMBER", "dozen")
    assert "dozen: give" in str(asked(words.split()))


def test_texts_out_of_the_environment_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNA_TEST_FOLDER", "/no/0070")
    assert "/no/0070" in str(asked(["dataset=images", "dataset.root=${oc.env:FNA_TEST_FOLDER}"]))


# 3, 4, 5: before and after a run


def test_interrupted_while_it_is_imported_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt\n")
    for command in (["run.py"], ["-m", "fna"]):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        found = subprocess.run(
            [sys.executable, *command, "attn=fna"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert found.returncode == 130
        assert found.stderr == "interrupted: nothing has run yet, the same command starts anew\n"


def test_plots_are_drawn_in_silence_where_no_folder_of_settings_can_be_written(tmp_path: Path) -> None:
    nowhere = tmp_path / "a file"
    nowhere.touch()
    env = {**os.environ, "MPLCONFIGDIR": str(nowhere / "settings"), "HOME": str(nowhere), "PYTHONPATH": str(ROOT)}
    drawn = "from fna.report.canvas import svg_axes; svg_axes(3)"
    found = subprocess.run([sys.executable, "-c", drawn], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert found.stderr == ""


# 7, 8: code of one's own


@dataclass(frozen=True)
class Careless:
    """A sampler that scales the queries it was given."""

    gives: ClassVar[type] = Landmarks

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: object = None, drop: object = None
    ) -> Landmarks:
        q.mul_(2)
        return Landmarks(torch.arange(count).expand(len(k), -1))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_sampler_that_changes_the_queries_is_named_itself(mode: Any) -> None:
    with mode():
        q, k, v = torch.randn(3, 1, 2, 40, 8)
        with pytest.raises(UserError, match=r"sampler Careless changes q, k or v in place"):
            fna.attention(q, k, v, "fna", landmarks=8, sampler=Careless())


def test_layers_apart_in_one_thread_are_none_of_anothers_business() -> None:
    with absorbed.apart(), ThreadPoolExecutor(1) as pool:
        assert not absorbed._wanted.get()
        assert pool.submit(absorbed._wanted.get).result()
    assert absorbed._wanted.get()


# 4: what a defaults list says


@pytest.mark.parametrize("kind", ["experiment", "dataset"])
def test_an_optional_override_is_told_how_it_is_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / kind).mkdir()
    head = "# @package _global_\n" if kind == "experiment" else ""
    (tmp_path / kind / "mine.yaml").write_text(f"{head}defaults:\n  - optional override /attn: fna\n")
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    said = str(asked([f"{kind}=mine"]))
    assert "optional override /attn: optional leaves out what there is not, in silence; write - override /attn" in said


# 9: reports


def test_notes_of_files_that_are_run_alike_are_one_line() -> None:
    alike, other = "is run as timm's vit_tiny would be: mean 0.5", "is run as timm's vit_small would be: mean 0.4"
    tail = "; to run it otherwise: model.mean=[...]"
    each = [{"notes": [f"{file} {how}{tail}", "drawn"]} for file, how in (("a.pt", alike), ("b.pt", alike), ("c.pt", other))]
    assert told(*each) == [f"a.pt, b.pt {alike}{tail}", "drawn", f"c.pt {other}"]
    assert told({"notes": ["one", "two"]}) == ["one", "two"]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [("model=clip dataset=shapes_asked", "give attn=fna"), ("model=llava_shapes dataset=shapes_asked", "give kv=fna")],
)
def test_exact_attention_that_nobody_asked_for_is_said_to_be_full_itself(words: str, remedy: str) -> None:
    assert any("attn=exact, which dataset=shapes_asked brings" in note and remedy in note for note in notes(*words.split()))
    assert not any("which dataset" in note for note in notes(*words.split(), "attn=exact"))
