"""When a stored row is taken, and what its key has to see; whole jobs in this process, on a small random ViT."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from fna.errors import UserError
from fna.report.csv_logger import CsvLogger
from fna.runner import job
from fna.runner import loaded as loading
from fna.runner.sweep import SweepReport
from fna.tasks.classification import Classification
from tests.test_conf import composed

Job = Callable[..., dict[str, Any]]
CHOSEN = {"model": "vit", "dataset": "imagefolder", "task": "classification", "attn": "exact", "sampler": "fps"}
TINY = ("model.name=test_vit", "model.random=true", "model.num_classes=3", "timing.enabled=false", "gallery=0", "bootstrap=100")


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of the images that a test may damage."""
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


@pytest.fixture
def run(images: Path, tmp_path: Path) -> Job:
    """Run one job; groups and knobs as on the command line. Returns its result.json, a failed one included."""

    def one(*words: str) -> dict[str, Any]:
        names = CHOSEN | {group: option for group, _, option in (word.partition("=") for word in words) if group in CHOSEN}
        groups = [f"{group}={option}" for group, option in names.items()]
        rest = [word for word in words if word.partition("=")[0] not in CHOSEN]
        places = (f"dataset.root={images}", f"rows_dir={tmp_path / 'rows'}")
        job.run(composed(*groups, *TINY, *places, *rest), names, tmp_path / "run")
        return dict(json.loads((tmp_path / "run" / "result.json").read_text()))

    return one


def blanked(image: Path) -> bytes:
    """Fill an image with zeros of the same size, as a failing disk does; returns what it held."""
    content = image.read_bytes()
    image.write_bytes(bytes(len(content)))
    return content


def test_strict_takes_no_row_that_skipped(run: Job, images: Path) -> None:
    blanked(images / "b" / "1.jpg")
    assert run()["samples"] == 11
    with pytest.raises(UserError, match=r"1\.jpg.*mend or remove it"):
        run("strict=true")
    assert run()["samples"] == 11


def test_an_image_mended_later_comes_into_the_rows(run: Job, images: Path) -> None:
    image = images / "b" / "1.jpg"
    content = blanked(image)
    first = run()
    assert (first["samples"], len(first["skipped"])) == (11, 1)
    image.write_bytes(content)
    assert run("attn=fna", "landmarks=8")["samples"] == 12
    assert run()["samples"] == 12


def test_an_image_that_holds_something_else_is_another_data_set(run: Job, images: Path) -> None:
    """Its name and size are what they were: both rows are made of the new content, none is taken from before."""
    before = run()
    blanked(images / "b" / "1.jpg")
    after = run("attn=fna", "landmarks=8")
    assert (before["samples"], after["samples"]) == (12, 11)
    assert before["rows"]["full"] != after["rows"]["full"]


def test_memory_and_files_are_no_failure_of_the_row(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (MemoryError(), "smaller batch_size"),
        (torch.OutOfMemoryError("CUDA"), "CUDA"),
        (UserError("disk"), "disk"),
    ):

        def refuse(*args: Any, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Classification, "evaluate", refuse)
            with pytest.raises(UserError, match=said):
                run()
    assert run()["status"] == "ok"


def test_a_failure_of_the_variant_is_remembered(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise ValueError("no such thing")

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", refuse)
        with pytest.raises(UserError, match="no such thing"):
            run()
    with pytest.raises(UserError, match=r"failed before \(no such thing\)"):
        run()
    assert run("retry_failed=true")["status"] == "ok"


def test_a_class_list_is_part_of_the_key(run: Job, tmp_path: Path) -> None:
    keys = set()
    for order in ("abc", "bca"):
        file = tmp_path / f"{order}.tsv"
        file.write_text("".join(f"{name}\tthe {name}\n" for name in order))
        keys |= {run(f"dataset.classes={file}")["rows"]["full"], run(f"model.classes={file}")["rows"]["full"]}
    assert len(keys) == 4
    assert run(f"dataset.classes={shutil.copy(file, tmp_path / 'moved.tsv')}")["rows"]["full"] in keys


def test_a_released_head_is_part_of_the_key(run: Job, tmp_path: Path) -> None:
    keys = set()
    for number in range(2):
        file = tmp_path / f"{number}.safetensors"
        save_file({"weight": torch.randn(3, 128, generator=torch.Generator().manual_seed(number)), "bias": torch.zeros(3)}, file)
        keys.add(run("task=released_head", f"task.checkpoint={file}")["rows"]["full"])
    assert len(keys) == 2


def test_a_probe_of_another_seed_is_another_row(run: Job, tmp_path: Path) -> None:
    words = ("task=probe", "task.epochs=2", f"task.cache={tmp_path / 'cache'}", "dataset=tiny_imagenet_bank", "dataset.bank=2")
    found = [run(*words, f"seed={seed}", "model.random=false", f"model.checkpoint={weights(tmp_path)}") for seed in (0, 1)]
    assert found[0]["rows"]["full"] != found[1]["rows"]["full"]
    assert all(result["fidelity"]["output_error"] < 1e-4 for result in found)
    assert len(list((tmp_path / "cache" / "embeddings").glob("*.npy"))) == 1


def weights(folder: Path) -> Path:
    """The same weights whatever the seed of the run."""
    import timm

    file = folder / "vit.safetensors"
    if not file.is_file():
        save_file(timm.create_model("test_vit", num_classes=3).state_dict(), file)
    return file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("workers=-1",), "workers=-1"),
        (("seed=-1",), "seed=-1"),
        (("timing.batch_size=0",), "timing.batch_size=0"),
        (("timing.rounds=0",), "timing.rounds=0"),
        (("tolerance=-1",), "tolerance=-1"),
        (("gallery=-1",), "gallery=-1"),
        (("bootstrap=1",), "bootstrap=1: give a whole number from 100"),
        (("logger=wandb", "logger.mode=foo"), "logger.mode=foo: give offline, online or disabled"),
        (("mask=both", "mask.blocks=5-99", "model.depth=6"), "^mask.blocks=5-99: this model has blocks 0-5"),
        (("attn=fna", "sampler=guaranteed", "sampler.massive=keep", "model.depth=6"), "^block 3 asks for massive tokens"),
        (("attn._target_=not_there.Mine",), "^not_there.Mine: cannot be imported .No module named 'not_there'.*PYTHONPATH"),
        (("landmarks=[16,32]",), r"landmarks=\[16,32\]"),
        (("layers=auto",), "layers=auto: attn=exact has no landmarks"),
        (("layers=auto", "attn=low_rank"), "layers=auto: attn=low_rank has no landmarks"),
        (("task=knn", "task.k=0"), "task.k=0"),
        (("task=probe", "task.epochs=0"), "task.epochs=0"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_refused_in_one_line_and_nothing_is_left(run: Job, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(*words)
    assert not (tmp_path / "run").exists()


def test_landmarks_by_the_input_of_a_block(run: Job) -> None:
    assert run("attn=fna", "landmarks=8", "sampler.features=input")["status"] == "ok"


def test_an_edited_method_is_computed_again(run: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it knows edits by the second
    keys = []
    for body in ("v", "v", "2 * v"):
        (tmp_path / "typed_by_a_user.py").write_text(f"class Mine:\n    def __call__(self, q, k, v, site): return {body}\n")
        sys.modules.pop("typed_by_a_user", None)
        keys.append(run("attn._target_=typed_by_a_user.Mine", "~attn.kernel")["rows"]["variant"])
    sys.modules.pop("typed_by_a_user")
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("error", [UserError("no account"), RuntimeError("no account")], ids=["mendable", "bug"])
def test_a_logger_that_fails_leaves_the_result(
    run: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse(*args: Any) -> None:
        raise error

    monkeypatch.setattr(CsvLogger, "log", refuse)
    with pytest.raises(UserError, match=r"^no account \(all but the log is there"):
        run("logger=csv")
    folder = tmp_path / "run"
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["samples"], result["unlogged"]) == ("ok", 12, "no account")
    assert (folder / "report.html").is_file()
    assert (folder / "traceback.txt").is_file() == isinstance(error, RuntimeError)
    with pytest.raises(SystemExit):
        SweepReport().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    assert "1 of 1 results were not logged: no account" in capsys.readouterr().err


def test_auto_without_a_readable_image_is_one_line(run: Job, images: Path) -> None:
    for image in images.rglob("*.jpg"):
        blanked(image)
    with pytest.raises(UserError, match="none of the 12 images of imagefolder could be read"):
        run("attn=fna", "landmarks=auto")


def test_auto_measures_again_on_other_images(run: Job, images: Path, tmp_path: Path) -> None:
    words = ("attn=fna", "landmarks=auto", "layers=0", "timing.batch_size=2")
    run(*words)
    run(*words, "limit=4")  # the same first two
    assert len(list((tmp_path / "auto").glob("*.json"))) == 1
    shutil.rmtree(images / "a")
    run(*words, "model.num_classes=2")
    run(*words, "model.num_classes=2", "model.mean=[0.1,0.2,0.3]")
    assert len(list((tmp_path / "auto").glob("*.json"))) == 3


def test_the_runner_tells_a_model_by_how_it_is_run(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    load = loading.load

    def spy(asked: Any) -> Any:
        loaded = load(asked)
        seen.append(loaded.model.identity)
        return loaded

    monkeypatch.setattr(loading, "load", spy)
    for words in ((), ("model.norm_eps=0.1",), ("model.mean=[0.1,0.2,0.3]",), ("dtype=bfloat16",), ()):
        run(*words)
    assert len({json.dumps(found, sort_keys=True) for found in seen}) == 4
    assert seen[0] == seen[-1]
