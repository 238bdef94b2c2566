"""Attention on q, k, v: the contract, one file a method, landmarks and inverses. Imports torch and nothing else.

``fna.attention`` is also the public function: Python binds a subpackage over a function of its name as soon as anything imports it,
so the package itself can be called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`fna.api.attention`."""
        return import_module("fna.api").attention(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
