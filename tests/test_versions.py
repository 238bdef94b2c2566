"""What tells the code of a part from an earlier one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from fna.ops.exact import Exact
from fna.versions import versions

METHOD = """
from dataclasses import dataclass
{imports}


@dataclass(frozen=True)
class Mine:
    def __call__(self, q, k, v, site):
        return v
"""


@pytest.mark.parametrize("imports", ["from own_helper import SHARP", "import own_helper as helper"])
def test_a_helper_beside_a_method_is_part_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: str) -> None:
    """Rows of a method were used again after an edit of the file that it imports from its own folder."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_method", "own_helper", "own_helper_of_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own_method.py").write_text(METHOD.format(imports=imports))
    (tmp_path / "own_helper.py").write_text("from own_helper_of_helper import SHARP\n")
    (tmp_path / "own_helper_of_helper.py").write_text("SHARP = 1\n")
    (tmp_path / "unused.py").write_text("SHARP = 1\n")
    part: Any = importlib.import_module("own_method").Mine()
    before = versions(part)
    (tmp_path / "unused.py").write_text("SHARP = 2\n")
    assert versions(part) == before
    (tmp_path / "own_helper_of_helper.py").write_text("SHARP = 2\n")
    assert versions(part) != before


def test_a_helper_in_a_package_of_ones_own_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "method.py").write_text(METHOD.format(imports="from . import helper"))
    (tmp_path / "own_package" / "helper.py").write_text("SHARP = 1\n")
    part: Any = importlib.import_module("own_package.method").Mine()
    before = versions(part)
    (tmp_path / "own_package" / "helper.py").write_text("SHARP = 2\n")
    assert versions(part) != before


@pytest.mark.parametrize(
    "imports",
    [
        "from ..common import SHARP",
        "from own_project.common import SHARP",
        "import importlib; importlib.import_module('own_project.common')",
        "from importlib import import_module; import_module('..common', __package__)",
    ],
)
def test_a_helper_elsewhere_in_the_source_tree_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: str) -> None:
    """Research code has its methods in one folder and what they share in another; modules may be imported by name."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_project"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "own_project" / "methods").mkdir(parents=True)
    (tmp_path / "own_project" / "methods" / "far.py").write_text(METHOD.format(imports=imports))
    (tmp_path / "own_project" / "common.py").write_text("SHARP = 1\n")
    part: Any = importlib.import_module("own_project.methods.far").Mine()
    before = versions(part)
    (tmp_path / "own_project" / "common.py").write_text("SHARP = 2\n")
    assert versions(part) != before


def test_packages_below_the_folder_of_a_method_are_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a method at the top of a checkout lie fna itself and an environment's packages."""
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(installed)
    (tmp_path / "own_top.py").write_text(METHOD.format(imports="import own_installed\nimport fna.ops.contract"))
    (installed / "own_installed.py").write_text("SHARP = 1\n")
    part: Any = importlib.import_module("own_top").Mine()
    before = versions(part)
    (installed / "own_installed.py").write_text("SHARP = 2\n")
    assert versions(part) == before


def test_a_declared_version_is_all_that_counts() -> None:
    assert versions(Exact()) == [Exact.version]
