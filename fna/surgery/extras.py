"""What is put on top of a swap (look-aheads, registers) and has to come along when the swap is taken out and put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fna.surgery.swap import Swap

Install = Callable[[Swap], object]
_EXTRAS = "_fna_extras"


def add(swap: Swap, install: Install) -> None:
    """Run ``install(swap)``, which hangs its hooks on ``swap._hooks``, and remember it. On an error the swap is restored."""
    try:
        install(swap)
    except BaseException:
        swap.restore()
        raise
    vars(swap).setdefault(_EXTRAS, []).append(install)


def take_out(swap: Swap) -> list[Install]:
    """Restore ``swap`` for a while and return what was on top; `Swap.install` and `put_back` undo this."""
    swap.restore()
    return vars(swap).pop(_EXTRAS, [])


def put_back(swap: Swap, extras: Sequence[Install]) -> None:
    """The same on another swap of the same tower, or on the same one again."""
    for install in extras:
        add(swap, install)
