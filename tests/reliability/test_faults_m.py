"""Names that look like numbers, lists of other systems, what network drives put among pictures, folders that are gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.commands import check_here
from fna.configs import instantiate
from fna.data.imagefolder import ImageFolder
from fna.data.images import Images
from fna.data.segmentation import LabelMaps
from fna.errors import UserError
from fna.report.__main__ import main as report
from fna.runner.cli import checked
from fna.runner.typed import as_typed, of_roots
from fna.streams import never_fail
from fna.values import held


def picture(file: Path, value: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(file)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("dataset.root=1_000", "dataset.root='1_000'"),
        ("dataset.root=1.10", "dataset.root='1.10'"),
        ("dataset.root=1e3", "dataset.root='1e3'"),
        ("dataset.root=inf", "dataset.root='inf'"),
        ("dataset.root=1.1,1.10,5,x", "dataset.root='1.1','1.10','5',x"),
        ("dataset.root=sort(1.10,1_000,reverse=true)", "dataset.root=sort('1.10','1_000',reverse=true)"),
        ("dataset.root=007", "dataset.root=007"),
        ("dataset.root=2024", "dataset.root=2024"),
        ("dataset.root=range(1,4)", "dataset.root=range(1,4)"),
        ("dataset.root='1.10'", "dataset.root='1.10'"),
    ],
)
def test_a_folder_whose_name_looks_like_a_number_is_the_one_that_was_typed(typed: str, kept: str) -> None:
    assert as_typed(["dataset=images", typed])[1] == kept


def test_folders_of_runs_and_rows_too_keep_their_names_and_numbers_stay_numbers() -> None:
    words = ["rows_dir=1.10", "hydra.run.dir=1_000", "landmarks=1_6", "tolerance=1e-1", "image_size=[352,4_80]"]
    assert of_roots(words) == ["rows_dir='1.10'", "hydra.run.dir='1_000'", *words[2:]]


def test_a_checkpoint_and_classes_that_look_like_numbers_are_taken_as_typed() -> None:
    words = ["model=clip", "model.checkpoint=null,7e10", "dataset=camvid", "dataset.classes=[1.10,1_000]"]
    assert as_typed(words)[1::2] == ["model.checkpoint=null,'7e10'", "dataset.classes=['1.10','1_000']"]


def test_the_command_line_hands_such_words_on_as_typed() -> None:
    assert "dataset.root='1.1','1.10'" in checked(["-m", "dataset=images", "dataset.root=1.1,1.10"])


def test_true_for_a_text_is_told_how_to_be_written() -> None:
    with pytest.raises(UserError, match=r"dataset\.root=true: give a text; .* \"dataset\.root='true'\" in a shell"):
        held(str, True, "dataset.root")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("1.10", r"mine\.yaml: dataset\.root=1\.1: give a text; .* root: '1\.1' in YAML"),
        ("1_000", r"mine\.yaml: root: 1_000 is the number 1000 to YAML; put it in quotes: '1_000'"),
        ("010", r"mine\.yaml: root: 010 is the number 8 to YAML"),
    ],
)
def test_a_number_for_a_text_in_yaml_of_ones_own_is_told_to_be_put_in_quotes(
    said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omegaconf import OmegaConf

    file = tmp_path / "dataset" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(f"_target_: fna.data.imagefolder.ImageFolder\nroot: {said}\n")
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    with pytest.raises(UserError, match=told):
        instantiate(OmegaConf.create({"dataset": OmegaConf.load(file)}).dataset)


def test_an_experiment_that_sweeps_over_such_names_is_told_the_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    swept = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      dataset.root: 1.1,1.10\n"
    file.write_text(f"# @package _global_\ndefaults:\n  - override /dataset: images\n{swept}")
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"write dataset\.root: \"'1\.1','1\.10'\""):
        as_typed(["experiment=mine"])


@pytest.mark.parametrize("written", ["\ufeffstreet 00\r\nstreet 01\r\n\r\n", "street 00\nstreet 01", "street 00 \rstreet 01\r"])
def test_a_listing_is_one_name_a_line_whatever_system_wrote_it(written: str, tmp_path: Path) -> None:
    for name, value in (("street 00", 0), ("street 01", 1)):
        picture(tmp_path / f"{name}.png")
        picture(tmp_path / "labels" / f"{name}.png", value)
    (tmp_path / "val.txt").write_bytes(written.encode())
    maps = LabelMaps("made", str(tmp_path), "val", "{name}.png", "labels/{name}.png", ["a", "b"], listing="{split}.txt")
    assert [example.key for example in maps.load(None).examples] == ["street 00", "street 01"]


SYSTEMS = ("@eaDir/a.jpg", "#recycle", "$RECYCLE.BIN/S-1-5", ".Trash-1000", "__MACOSX", "lost+found", "System Volume Information")


@pytest.mark.parametrize("folder", SYSTEMS)
def test_thumbnails_and_deleted_pictures_of_network_drives_are_left_out_and_counted(folder: str, tmp_path: Path) -> None:
    for place in ("a.jpg", "b.jpg", f"{folder}/x.jpg", f"2024/{folder}/y.jpg"):
        picture(tmp_path / place)
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    found = Images(str(tmp_path)).load(None)
    assert [example.key for example in found.examples] == ["a.jpg", "b.jpg"]
    assert found.notes == [f"2 pictures left out: in folders of the system ({folder.partition('/')[0]})"]


def test_such_folders_are_no_classes_and_add_nothing_to_classes(tmp_path: Path) -> None:
    for place in ("cat/a.jpg", "dog/b.jpg", "cat/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/c.jpg"):
        picture(tmp_path / place)
    found = ImageFolder(str(tmp_path), split=None).load(None)
    assert (found.classes, len(found.examples)) == (["cat", "dog"], 2)
    assert "2 pictures left out: in folders of the system (#recycle, @eaDir)" in found.notes


def test_a_current_folder_that_is_gone_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match=r"the current folder is not there any more .*; cd to one that is"):
        check_here()


def test_a_report_asked_for_from_there_is_that_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert report(["."]) == 1
    assert capsys.readouterr().err.startswith("error: the current folder is not there any more")


@pytest.mark.parametrize(("said", "kept"), [("0", None), ("", None), ("100", "100")])
def test_a_width_of_no_columns_is_none(said: str, kept: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", said)
    for stream in ("stdout", "stderr"):  # which it replaces
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    never_fail()
    assert os.environ.get("COLUMNS") == kept
