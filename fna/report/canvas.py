"""Where plots are drawn: a figure of matplotlib's that becomes SVG and never a window."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
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


def _import_without_windows() -> None:
    """Import matplotlib, which cannot be where MPLBACKEND names a backend that is not there.

    Notebooks name one of their own in it, and hand it on to the programs that they start. Where it is there, it is taken as ever:
    the plots of whoever calls us stay in their notebook.
    """
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if named is not None:
        os.environ["MPLBACKEND"] = named
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named
