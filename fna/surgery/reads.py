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
    ``by_hand``: it asks no table, takes a softmax and multiplies matrices twice. ``softmax``: it takes one, whatever for."""

    table: bool
    fused: bool
    by_hand: bool
    softmax: bool


def facts(module: object) -> Facts:
    """What the class of ``module`` says."""
    cls = type(module)
    return _facts(cls, getattr(cls, "forward", None))  # type: ignore[arg-type]


@cache
def _facts(cls: type, forward: object) -> Facts:
    """``forward``: that of the class now, which somebody may replace by another."""
    homes = list(_homes(cls)) or [cls]
    codes = [
        code
        for home in homes
        for found in vars(home).values()
        if inspect.isfunction(found)
        for code in _nested(inspect.unwrap(found).__code__)
    ]
    names = {name for code in codes for name in code.co_names}
    own = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    said = [*own.values(), *(vars(home).get("forward") for home in homes)]
    fused = any(_FUSED in inspect.unwrap(value).__code__.co_names for value in said if inspect.isfunction(value))
    products = sum(map(_multiplies, (step for code in codes for step in dis.get_instructions(code))))
    softmax = bool(_SOFTMAX & names)
    return Facts(_TABLE in names, fused, _TABLE not in names and softmax and products >= 2, softmax)


def _homes(cls: type) -> Iterator[type]:
    """The class whose forward ``cls`` has, and those whose forward that one calls by ``super()``."""
    for base in cls.__mro__:
        forward = vars(base).get("forward")
        if forward is not None:
            yield base
            if not (inspect.isfunction(forward) and {"super", "forward"} <= set(inspect.unwrap(forward).__code__.co_names)):
                return


def _multiplies(step: dis.Instruction) -> bool:
    return step.argval in PRODUCTS or (step.opname == "BINARY_OP" and step.argrepr == "@")


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _nested(inner)
