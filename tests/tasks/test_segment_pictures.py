"""Pictures of label maps."""

from __future__ import annotations

from typing import Any

from fna.tasks.exhibits import Show
from fna.tasks.segment_pictures import draw


def test_a_gallery_of_none_evaluates_nothing() -> None:
    nothing: Any = None
    assert draw(Show(nothing, nothing, [nothing, nothing], 0, nothing), nothing) == []
