"""Pictures of label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fna.runner.segments import draw


def test_a_gallery_of_none_evaluates_nothing(tmp_path: Path) -> None:
    nothing: Any = None
    assert draw(tmp_path, nothing, nothing, nothing, nothing, nothing, count=0) == []
