"""Where plots are drawn: a figure of matplotlib's that becomes SVG and never a window."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

INCHES = 5.4  # of a plot's width


def svg_axes(inches: float) -> tuple[Any, Any]:
    """A figure of that height, and its axes."""
    _import_without_windows()
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES, inches), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


@contextmanager
def _told_of_errors_alone(name: str) -> Iterator[None]:
    """Without what a logger warns of: of folders of settings and fonts that cannot be written, without which plots are the same."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _import_without_windows() -> None:
    """Import matplotlib, which cannot be where MPLBACKEND names a backend that is not there.

    Notebooks name one of their own in it, and hand it on to the programs that they start. Where it is there, it is taken as ever:
    the plots of whoever calls us stay in their notebook.
    """
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop("MPLBACKEND", None)
    with _told_of_errors_alone("matplotlib"):
        import matplotlib
        import matplotlib.font_manager

    if named is not None:
        os.environ["MPLBACKEND"] = named
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named
