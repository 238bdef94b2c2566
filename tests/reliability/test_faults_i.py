"""Cases of a ninth pair of eyes, what of them failed: nested splits, jobs in one folder, work without end, who is asked first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fna
from fna.data import files
from fna.data.imagefolder import ImageFolder
from fna.errors import UserError
from fna.models import heads
from fna.models.weights import misfit
from fna.ops.nystrom import FastNystrom
from tests.reliability.lines import asked

ROOT = Path(__file__).parents[2]


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


# 1: a path that is not there becomes another question


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "seg_test"}, "forest, glacier one level below look like its classes: give dataset.split=seg_test/seg_test."),
        ({"split": "seg_test/seg_test", "train": "seg_train"}, "give dataset.train=seg_train/seg_train."),
    ],
)
def test_a_split_that_archives_unpack_into_a_folder_of_its_own_name_is_told_with_the_value_to_give(
    given: dict[str, str], said: str, tmp_path: Path
) -> None:
    parts = [f"{split}/{split}/{name}/0.png" for split in ("seg_test", "seg_train") for name in ("forest", "glacier")]
    tree(tmp_path, *parts)
    with pytest.raises(UserError, match=said):
        ImageFolder(str(tmp_path), **given).check()
    data = ImageFolder(str(tmp_path), split="seg_test/seg_test", train="seg_train/seg_train").load(None)
    assert data.classes == ["forest", "glacier"]
    assert data.training is not None
    assert len(data.training().examples) == 2


# 8: a sweep's folders


@pytest.mark.parametrize(
    ("subdir", "words", "said"),
    [
        ("job.num", ["landmarks=16,32"], "a job would write over another one in job.num;"),
        ("${landmarks}/../run", ["landmarks=16,32"], "a job would write over another one in run;"),
        ("${attn.steps}", ["landmarks=16", "attn=fna,nystromformer"], "a job would write over another one in 6;"),
        ("${attn.steps}", ["attn=fna,exact"], "cannot be filled in for attn=exact; name a value that every job has."),
        ("../${landmarks}", ["landmarks=16,32"], "which is no folder in that of the sweep;"),
        ("${landmarks}/..", ["landmarks=16,32"], "which is no folder in that of the sweep;"),
    ],
)
def test_jobs_that_would_share_a_folder_or_leave_that_of_the_sweep_are_refused_before_the_first(
    subdir: str, words: list[str], said: str, tmp_path: Path
) -> None:
    more = [f"hydra.sweep.dir={tmp_path / 'sweep'}", f"hydra.sweep.subdir={subdir}"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", *words, *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: hydra.sweep.subdir={subdir}")
    assert said in line
    assert not list(tmp_path.iterdir())


# 13: nothing runs for ever


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stride=1e-9", "task.inference.stride=1e-09: give a number from 0.05 to 1."),
        ("stride=0.01", "give a number from 0.05 to 1."),
        (f"scales=[{','.join(['1'] * 21)}]", "give 1 to 20 sizes [...], each from 0.1 to 10."),
    ],
)
def test_windows_and_scales_that_make_work_without_end_are_refused_with_a_bound(word: str, said: str) -> None:
    found = asked(["dataset=shapes_segmented", "task.inference.mode=slide", f"task.inference.{word}"])
    assert found is not None
    assert said in found


READ = """
import sys
from pathlib import Path
from PIL import Image
from fna.data.base import Given
from fna.data.loading import batches
from fna.data.reading import Reading
from fna.errors import UserError
from fna.tasks.dense import pil_to_pixels
from types import SimpleNamespace
examples = [SimpleNamespace(key=path.name, image=path) for path in sorted(Path(sys.argv[1]).glob("*.png"))]
if __name__ == "__main__":
    try:
        print(sum(len(batch.images) for batch in batches(examples, pil_to_pixels, batch_size=2, skipped=[], reading=Reading(2, 2))))
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(("folder", "said"), [("t" * 90, "workers=2: no socket between processes can be made"), ("gone", "8\n")])
def test_processes_that_cannot_hand_over_images_are_not_waited_for(folder: str, said: str, tmp_path: Path) -> None:
    """Sockets have short names: where TMPDIR is a long one, the process that reads cannot make one, and says so to nobody."""
    tree(tmp_path, *(f"{number}.png" for number in range(8)))
    (tmp_path / ("t" * 90)).mkdir()
    (tmp_path / "read.py").write_text(READ)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "read.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(said), done.stderr


def test_counts_name_the_most_that_there_may_be() -> None:
    x = torch.randn(1, 5, 4)
    for refused in (
        lambda: FastNystrom(landmarks=10**12),
        lambda: fna.sample_landmarks(x, 10**12, return_valid=True),
        lambda: fna.attention(x[None], x[None], x[None], landmarks=10**12),
    ):
        with pytest.raises(UserError, match=r"=1000000000000: give a .*from 1 to 1000000\b"):
            refused()
    for word in ("landmarks=1000000000000", "landmarks=10**12"):
        assert "give a count from 1 to 1000000," in str(asked([word]))
    budget = asked(["model=llava_shapes", "dataset=shapes_asked", "kv=fna", "kv.budget=2000000"])
    assert "or a count from 2 to 1000000." in str(budget)


# 16: files of weights and of classes


@pytest.mark.parametrize("read", [heads.read_classes, files.read_classes])
@pytest.mark.parametrize(
    ("name", "text", "sign"),
    [
        ("classes.csv", "\ufeffa;Apfel\r\nb;Birne\r\n", ";"),
        ("classes.txt", "id;name\na;Apfel\nb;Birne\n", ";"),
        ("classes.csv", "a,Apfel\nb,Birne\n", ","),
    ],
)
def test_a_list_of_classes_as_spreadsheets_save_it_is_refused(read: Any, name: str, text: str, sign: str, tmp_path: Path) -> None:
    """Each line would be one class, called as the whole line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"its columns are divided by '{sign}'; save it as text divided by tabs"):
        read(str(tmp_path / name))


@pytest.mark.parametrize("read", [heads.read_classes, files.read_classes])
def test_names_may_have_commas_in_them(read: Any, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    assert read(str(tmp_path / "classes.txt"))[0] == ["tench, Tinca tinca", "goldfish, Carassius auratus"]


def test_weights_that_torch_quantised_are_told_as_such() -> None:
    expected = {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    found = {"fc.scale": torch.tensor(1.0), "fc.zero_point": torch.tensor(0), "fc._packed_params.dtype": torch.tensor(0)}
    assert misfit(expected, found).startswith("it holds quantised weights (first: fc.zero_point)")


# 19: parts of one's own

PARTS = """
from dataclasses import dataclass
from fna.data.base import Labelled

@dataclass(frozen=True)
class Half:
    keep: float = 0.5
    every: int = 2
    def __call__(self, x, place): return x, place.tokens

@dataclass(frozen=True)
class Data:
    root: str
    count: int = 3
    split: str = "val"
    domain: str = "photographs"
    gives = Labelled
    def check(self): pass
    def load(self, limit): pass
"""


@pytest.mark.parametrize(
    ("group", "yaml", "said"),
    [
        ("reduce", "_target_: mine_of_parts.Half\nkeep: lots\n", "reduce.keep=lots: give a number."),
        ("reduce", "_target_: mine_of_parts.Half\nevery: 1.5\n", "reduce.every=1.5: give a whole number."),
        ("reduce", "_target_: mine_of_parts.Data\nroot: x\n", "mine_of_parts.Data: makes no reduce, it has no __call__"),
        ("reduce", "_target_: mine_of_parts.Halv\n", "mine_of_parts.Halv: cannot be imported"),
        ("dataset", "_target_: mine_of_parts.Data\nroot: x\ncount: many\n", "dataset.count=many: give a whole number."),
        ("dataset", "_target_: mine_of_parts.Data\n", "mine_of_parts.Data needs root: give dataset.root=... ."),
        ("dataset", "_target_: fna.data.imagefolder.ImageFolder\nroot: [1,2]\n", "dataset.root=[1,2]: give a text."),
        (
            "dataset",
            "defaults:\n  - override /task@_global_.task: nope\n_target_: mine_of_parts.Data\nroot: x\n",
            "defaults: task=nope: no such task; there is classification,",
        ),
        ("attn", "_target_: fna.ops.nystrom.FastNystrom\nsteps: many\n", "attn.steps=many: give a whole number from 1"),
    ],
)
def test_a_mistake_in_the_yaml_of_ones_own_part_is_one_line_with_the_file(
    group: str, yaml: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "my_part.yaml").write_text(yaml)
    (tmp_path / "mine_of_parts.py").write_text(PARTS)
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    found = str(asked([f"{group}=my_part"]))
    assert found.startswith(f"{tmp_path / group / 'my_part.yaml'}: {said}")
    assert "\n" not in found


def test_a_value_that_was_typed_is_not_said_to_be_in_a_file() -> None:
    assert str(asked(["attn=fna", "attn.steps=many"])).startswith("attn.steps=many: give")


# 18: the remedy that is named


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=smollm2 dataset=imagefolder dataset.root={root}", "model=smollm2 has no classification head and no text tower"),
        ("model=smollm2 model.package=a_b dataset=shapes", "model=smollm2 has no text tower"),
        ("model=smollm2 model.package=a_b dataset=longtext reduce=tome", "reduce=tome: is for models that embed images"),
    ],
)
def test_no_package_is_asked_for_that_a_model_would_need_to_do_what_it_cannot(words: str, said: str, tmp_path: Path) -> None:
    tree(tmp_path, "val/a/0.png", "val/b/0.png")
    found = asked(words.format(root=tmp_path).split())
    assert found is not None
    assert found.startswith(said)
    assert "pip install" not in found
