"""A new method whose YAML or module is broken, in FNA_CONF_DIR as the README has it: one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.configs import build_attention
from fna.errors import UserError
from tests.reliability.lines import asked

METHOD = """
from dataclasses import dataclass

@dataclass
class Mine:
    weight: float = 1.0
    def __call__(self, q, k, v, site):
        return v

@dataclass
class Sampler:
    def __call__(self, q, k, v, site, count, keep, drop):
        return None

def plain(weight: int = 3):
    return Mine(weight)

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "attn").mkdir()
    (tmp_path / "mine_all_my_own.py").write_text(METHOD)
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("", "has no _target_"),
        ("# a comment\n", "has no _target_"),
        ("weight: 3\n", "has no _target_"),
        ("_target_: null\n", "has no _target_"),
        ("- a\n- b\n", "is a list"),
        ("just words\n", "has no _target_"),
        ("_target_: [\n", "line 2: "),
        ("a: b: c\n", "line 1: mapping values are not allowed here"),
        ("\tx: 1\n", "line 1: "),
        ("_target_: mine_all_my_own.Other\n", "cannot be imported (module 'mine_all_my_own' has no attribute 'Other')"),
        ("_target_: not_there_at_all.Mine\n", "No module named 'not_there_at_all'); its folder has to be on PYTHONPATH"),
        ("_target_: broken_syntax.Mine\n", "broken_syntax.py line 1: "),
        ("_target_: broken_import.Mine\n", "broken_import.py line 2: ZeroDivisionError: division by zero"),
        ("_target_: os.getcwd\n", "os.getcwd: makes no attn, it has no __call__"),
        ("_target_: mine_all_my_own.Sampler\n", "makes no attn, it has no __call__(self, q, k, v, site)"),
        ("_target_: mine_all_my_own.number\n", "is no class or function that could be called"),
        ("_target_: mine_all_my_own.Mine\nwidth: 3\n", "attn.width: mine_all_my_own.Mine has no such key; it has weight."),
        ("_target_: mine_all_my_own.Mine\nweight: wide\n", "attn.weight=wide: give a number."),
        ("_target_: mine_all_my_own.plain\nweight: 1.5\n", "attn.weight=1.5: give a whole number."),
        ("_target_: 3\n", "_target_=3 is no name; give that of the class to build, package.Class."),
        ("defaults:\n  - nowhere\n_target_: mine_all_my_own.Mine\n", "attn=nowhere: no such attn"),
    ],
)  # fmt: skip
def test_one_line_with_the_file(folder: Path, yaml: str, said: str) -> None:
    (folder / "broken_syntax.py").write_text("def (:\n")
    (folder / "broken_import.py").write_text("x = 1\nx / 0\n")
    file = folder / "attn" / "mine.yaml"
    file.write_text(yaml)
    found = asked(["attn=mine"])
    assert found is not None, "was taken"
    assert said in found
    assert str(file) in found or "attn.weight=" in found or "attn=nowhere" in found  # a value is named by its key


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "attn" / "mine.yaml").write_bytes(b"\xff\xfe\x00x: 1")
    assert "mine.yaml" in str(asked(["attn=mine"]))


@pytest.mark.parametrize("target", ["Mine", "plain"])
def test_a_whole_one_is_taken_with_its_annotations(folder: Path, target: str) -> None:
    (folder / "attn" / "mine.yaml").write_text(f"_target_: mine_all_my_own.{target}\nweight: 2\n")
    assert asked(["attn=mine", "attn.weight=4"]) is None
    assert asked(["attn=mine", "attn.weight=no"]) is not None
    assert "counts no landmarks" in str(asked(["attn=mine", "landmarks=8"]))  # its YAML does not say ${landmarks}


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path / "gone"))
    assert asked([]) == f"FNA_CONF_DIR={tmp_path / 'gone'}: no such folder; name one laid out like conf/, or unset it."
    with pytest.raises(UserError, match="no such folder"):
        build_attention("fna")


def test_a_folder_that_is_a_group_itself_is_told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("FNA_CONF_DIR", str(folder / "attn"))
    assert asked(["attn=mine"]) == f"FNA_CONF_DIR={folder / 'attn'}: has no folder such as attn/; name one laid out like conf/."


def test_a_folder_with_signs_of_hydras_in_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = tmp_path / "my conf, [the] 2nd (ü)"
    (odd / "attn").mkdir(parents=True)
    (odd / "attn" / "mine.yaml").write_text("_target_: fna.ops.exact.Exact\n")
    monkeypatch.setenv("FNA_CONF_DIR", str(odd))
    assert asked(["attn=mine"]) is None
