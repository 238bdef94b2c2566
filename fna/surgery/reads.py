"""What a module does about attention, as the code of its class says: the names that it uses, and what it multiplies.

A class that only inherits its forward is read where that stands. Nothing here imports a model library.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType
from typing import NamedTuple

PRODUCTS = ("matmul", "__matmul__", "bmm")
_TABLE = "ALL_ATTENTION_FUNCTIONS"
_FUSED = "scaled_dot_product_attention"
_SOFTMAX = {"softmax", "Softmax"}


class Facts(NamedTuple):
    """``table``: it looks its attention up in transformers' table. ``fused``: its class or a base calls torch's fused kernel.
    ``by_hand``: it asks no table, takes a softmax and multiplies matrices twice."""

    table: bool
    fused: bool
    by_hand: bool


def facts(module: object) -> Facts:
    """What the class of ``module`` says."""
    return _facts(type(module))  # type: ignore[arg-type]


@cache
def _facts(cls: type) -> Facts:
    home = next((base for base in cls.__mro__ if "forward" in vars(base)), cls)
    codes = [code for found in vars(home).values() if inspect.isfunction(found) for code in _nested(inspect.unwrap(found).__code__)]
    names = {name for code in codes for name in code.co_names}
    own = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    fused = any(_FUSED in value.__code__.co_names for value in own.values() if hasattr(value, "__code__"))
    products = sum(map(_multiplies, (step for code in codes for step in dis.get_instructions(code))))
    return Facts(_TABLE in names, fused, _TABLE not in names and bool(_SOFTMAX & names) and products >= 2)


def _multiplies(step: dis.Instruction) -> bool:
    return step.argval in PRODUCTS or (step.opname == "BINARY_OP" and step.argrepr == "@")


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _nested(inner)
