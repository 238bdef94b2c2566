"""fna: training-free attention approximations for pretrained vision transformers, swapped in and measured in pairs.

The public names are imported when first used, so that ``import fna`` and ``run.py --help`` do not load torch.
"""

from __future__ import annotations

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
    return sorted([*globals(), *__all__])
