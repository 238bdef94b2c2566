"""Training-free attention approximations for pretrained vision transformers, swapped in and measured in pairs.

    with fna.swap(model, "fna", layers="last-half", landmarks=64): ...    other attention in chosen blocks, undone afterwards
    out = fna.attention(q, k, v, "fna", landmarks=64)                     one attention on [batch, heads, tokens, head_dim]
    found = fna.compare(model, loader, "fna", landmarks=64)               full against "fna" on a loader of your own: print(found)
    index = fna.sample_landmarks(x, 64)                                   landmarks among [batch, tokens, dim]: int64 [batch, 64]

Whatever of this a user can mend raises `fna.UserError`. The command line is ``fna --help``, or ``python -m fna``.
"""

from __future__ import annotations

# The public names are imported when first used, so that ``import fna`` and ``fna --help`` do not load torch.
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fna.api import attention, compare, sample_landmarks, swap
    from fna.errors import UserError

__version__ = "0.1.0"
__all__ = ["UserError", "attention", "compare", "sample_landmarks", "swap"]

_HOME = {"attention": "fna.api", "compare": "fna.api", "sample_landmarks": "fna.api", "swap": "fna.api", "UserError": "fna.errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fna' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"__getattr__", "__dir__"})  # help(fna) lists what is here
