"""The second seam: fewer tokens between the attention and the MLP of each block, where token mergers work.

A reducer is a callable ``reducer(x, place) -> (x, tokens)``: the residual stream ``[B, N, D]`` after the attention branch, and what
the tokens are afterwards. It is asked in every block and returns what it got where it does nothing; what it merges or drops makes
new `Tokens` with the next ``version``, so that nothing shared between blocks outlives the tokens that it was made for. The
``bias`` of the tokens reaches the logits of every later block, and after the last one every original token gets what the one that
it went into has: heads, pools and dense tasks see the sequence that they know.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fna.errors import UserError
from fna.ops.contract import Memo, Site, Tokens, Unsupported
from fna.ops.rows import cls_attention
from fna.ops.spread import spread
from fna.surgery.blocks import Tower
from fna.surgery.extras import add
from fna.surgery.forward import Call
from fna.surgery.spec import BlockSpec
from fna.surgery.swap import Swap

RENEWED = (
    "return new Tokens with the next version, and the source and sizes of what is left, as fna.reduce.joining.renewed makes them "
    "(docs/reducers.md)"
)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a reducer is asked: the block, of how many, what the tokens are, the memo of this pass, and the block's attention."""

    layer: int
    depth: int
    tokens: Tokens
    memo: Memo
    call: Call | None = None

    def keys(self) -> Tensor:
        """The keys of this block's attention, mean over heads: ``[B, N, d]``, at least float32."""
        k = self._called().k
        return k.mean(1, dtype=torch.promote_types(k.dtype, torch.float32))

    def cls_gives(self) -> Tensor:
        """What CLS gives to each token in this block, mean over heads: ``[B, N]``. Raises `Unsupported` without a CLS."""
        if self.tokens.prefix < 1:
            raise Unsupported("this model has no CLS token to be asked: use a reducer that looks at keys, such as reduce=tome.")
        return cls_attention(*self._called())

    def _called(self) -> Call:
        if self.call is None:
            raise Unsupported(f"block {self.layer}: its attention was not called through fna, so a reducer cannot see its keys.")
        return self.call


class Reducer(Protocol):
    """What ``conf/reduce/*.yaml`` instantiates: a frozen dataclass, like an op."""

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]: ...


def reducing(swap: Swap, reducer: Reducer) -> Swap:
    """``swap``, which has to change all blocks, with ``reducer`` in each of them until it is restored.

    Raises `UserError` for a tower that cannot do with fewer tokens.
    """
    try:
        check_reducer(swap.tower, reducer)
    except UserError:
        swap.restore()
        raise
    add(swap, partial(_install, reducer))
    return swap


def check_reducer(tower: Tower, reducer: Reducer) -> None:
    """Raise `UserError` for a tower that ``reducer`` cannot work in."""
    name = _called(reducer)
    if not tower.batch_first:
        raise UserError(f"{name}: this {tower.kind} runs sequence first, which has no reducer seam.")
    if tower.patches is None:
        raise UserError(f"{name}: a {tower.kind} holds no image; reducers work on vision towers.")
    if tower.rotary:
        raise UserError(f"{name}: this {tower.kind} has rotary positions, which do not move with the tokens; use reduce=resize.")
    try:
        tokens_after(reducer, tower.prefix)
    except Unsupported as refusal:
        raise UserError(str(refusal) if str(refusal).startswith(name) else f"{name}: {refusal}") from refusal


def tokens_after(reducer: Reducer, prefix: int = 1, depth: int = 12) -> tuple[Tokens, int]:
    """What ``reducer`` leaves of ``prefix`` tokens and a grid of 8 x 8 where it first does anything in ``depth`` blocks."""
    tokens, count = Tokens(prefix, grid=(8, 8)), prefix + 64
    generator = torch.Generator().manual_seed(0)
    for layer in range(depth):
        q, k = torch.randn(2, 1, 2, count, 8, generator=generator)
        call = Call(q, k, Site(scale=0.5, layer=layer, depth=depth, tokens=tokens))
        x, tokens = reduced(reducer, torch.randn(1, count, 8, generator=generator), Place(layer, depth, tokens, {}, call))
        if tokens.version:
            return tokens, x.shape[1]
    return tokens, count


def reduced(reducer: Reducer, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
    """What ``reducer`` leaves of ``x``. Raises `Unsupported` where that is not what its `Tokens` say."""
    name, before = _called(reducer), x.shape[1]
    out = reducer(x, place)
    if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[0], Tensor) or not isinstance(out[1], Tokens):
        raise Unsupported(f"{name} (block {place.layer}): returns {type(out).__name__}; return (x, tokens).")
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # where to ask for a count is to hold it fast
        return out
    x, tokens = out
    told = before if tokens.version == place.tokens.version else _told(tokens, x.shape[1])
    if told != x.shape[1]:
        raise Unsupported(
            f"{name} (block {place.layer}): {before} tokens went in and {x.shape[1]} came out, but its Tokens say {told}; "
            f"{RENEWED}."
        )
    return out


def _called(reducer: Reducer) -> str:
    return f"reduce={getattr(reducer, '__name__', type(reducer).__name__)}"


def _told(tokens: Tokens, count: int) -> int:
    """How many there are, as they say themselves; ``count`` where they don't."""
    if tokens.sizes is not None:
        return tokens.sizes.shape[1]
    return count if tokens.grid is None else tokens.prefix + tokens.grid[0] * tokens.grid[1] + tokens.suffix


def _install(reducer: Reducer, swap: Swap) -> None:
    if missing := sorted(set(range(len(swap.tower.blocks))) - swap.plan.keys()):
        raise UserError(f"blocks {missing} are not changed: a reducer needs an attention of ours in every block, such as exact.")
    swap._set(swap._run, "reduced", True)
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
        frame, run = self.swap.frame, self.swap._run
        if frame.aside:
            return type(self.block).forward(self.block, *args, **kwargs)
        name = next(iter(kwargs)) if not args else ""
        x, rest = (args[0], args[1:]) if args else (kwargs.pop(name), ())
        x = self.spec.attend(self.block, x, *rest, **kwargs)
        with run.clock("reducing"):
            place = Place(self.layer, run.depth, run.layout(frame, x.shape[1]), frame.memo, frame.call)
            frame.call = None
            x, frame.tokens = reduced(self.reducer, x, place)
            if frame.tokens.version and frame.tokens.source is None:
                run.unsourced = _called(self.reducer)
        x = self.spec.feed(self.block, x)
        if self.layer < run.depth - 1:
            return x
        with run.clock("reducing"):
            x, frame.tokens = spread(x, frame.tokens), None
        return x
