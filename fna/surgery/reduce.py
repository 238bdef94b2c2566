"""The second seam: fewer tokens between the attention and the MLP of each block, where token mergers work.

A reducer is a callable ``reducer(x, place) -> (x, tokens)``: the residual stream ``[B, N, D]`` after the attention branch, and what
the tokens are afterwards. It is asked in every block and returns what it got where it does nothing; what it merges or drops makes
new `Tokens` with the next ``version``, so that nothing shared between blocks outlives the tokens that it was made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from fna.errors import UserError
from fna.ops.contract import Memo, Tokens
from fna.surgery.blocks import BlockSpec
from fna.surgery.extras import add
from fna.surgery.swap import Swap


@dataclass(frozen=True, eq=False)
class Place:
    """Where a reducer is asked: the block, of how many, what the tokens are, and the memo of this forward pass."""

    layer: int
    depth: int
    tokens: Tokens
    memo: Memo


class Reducer(Protocol):
    """What ``conf/reduce/*.yaml`` instantiates: a frozen dataclass, like an op."""

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]: ...


def reducing(swap: Swap, reducer: Reducer) -> Swap:
    """``swap`` with ``reducer`` in every block until it is restored. Raises `UserError` for a tower that runs tokens first."""
    if not swap.tower.batch_first:
        swap.restore()
        raise UserError(f"reduce={type(reducer).__name__}: this {swap.tower.kind} runs sequence first, which has no reducer seam.")
    add(swap, partial(_install, reducer))
    return swap


def _install(reducer: Reducer, swap: Swap) -> None:
    for layer, (block, spec) in enumerate(zip(swap.tower.blocks, swap.tower.specs, strict=True)):
        if "forward" in vars(block):
            raise UserError(f"block {layer}: another tool has already replaced its forward; remove that first.")
        swap._set(block, "forward", Reduced(swap, reducer, layer, block, spec).forward)


class Reduced:
    """Stands in for the forward of one block: attention branch, reducer, MLP branch."""

    def __init__(self, swap: Swap, reducer: Reducer, layer: int, block: nn.Module, spec: BlockSpec) -> None:
        self.swap, self.reducer, self.layer, self.block, self.spec = swap, reducer, layer, block, spec

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model calls, with the arguments and the result of the block's own forward."""
        if self.swap.frame.aside:
            return type(self.block).forward(self.block, *args, **kwargs)
        name = next(iter(kwargs)) if not args else ""
        x, rest = (args[0], args[1:]) if args else (kwargs.pop(name), ())
        x = self.spec.attend(self.block, x, *rest, **kwargs)
        frame, run = self.swap.frame, self.swap._run
        with run.clock("reducing"):
            x, frame.tokens = self.reducer(x, Place(self.layer, run.depth, run.layout(frame, x.shape[1]), frame.memo))
        return self.spec.feed(self.block, x)
