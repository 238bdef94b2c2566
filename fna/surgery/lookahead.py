"""Looking ahead: blocks run again on the input at hand, before the running pass goes on.

Needed where what happens in a block depends on a later one: the tokens to be hidden from block 9 on are found in block 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from fna.errors import UserError
from fna.ops.contract import Attention, Memo
from fna.ops.spread import at_first, of_images
from fna.surgery.blocks import Tower, find_tower, run_blocks
from fna.surgery.extras import add
from fna.surgery.plan import Layers, parse_layers
from fna.surgery.registers import Registers
from fna.surgery.swap import Swap, swap_tower

Rerun = Callable[[Memo, Tensor | None], Memo]
Find = Callable[[Tensor, Rerun], Memo]


class Masking(Protocol):
    """What `swap_masked` needs to know of a masking strategy (``fna.masking.strategy.Masking``)."""

    @property
    def blocks(self) -> Layers: ...

    def window(self, depth: int) -> tuple[int, int]: ...

    def looks_ahead(self, blocks: Sequence[int], depth: int) -> bool: ...

    def ops(self, plan: Mapping[int, Attention], blocks: Sequence[int], depth: int, name: str = ...) -> dict[int, Attention]: ...

    def find(self, hidden: Tensor, rerun: Rerun, name: str = ...) -> Memo: ...

    def nothing_found(self, batch: int, tokens: int) -> Memo: ...


def swap_masked(
    model: nn.Module | Tower, plan: Mapping[int, Attention], masking: Masking | Registers | None, **options: Any
) -> Swap:
    """`swap_tower` with what ``conf/mask`` says on top; with a masking ``plan`` may be empty. ``options`` go to `swap_tower`."""
    if masking is None:
        return swap_tower(model, plan, **options)
    if isinstance(masking, Registers):
        return masking.swap(model, plan, **options)
    depth = len(find_tower(model).blocks)
    blocks = masked_blocks(masking.blocks, depth)
    swap = swap_tower(model, masking.ops(plan, blocks, depth), **options)
    if masking.looks_ahead(blocks, depth):
        look_ahead(swap, masking.find, masking.window(depth), blocks)
    return swap


def masked_blocks(spec: Layers, depth: int) -> tuple[int, ...]:
    """`parse_layers`, with "none" for no block: the tokens are found and left alone."""
    return () if spec == "none" else parse_layers(spec, depth, "mask.blocks")


def look_ahead(swap: Swap, find: Find, window: tuple[int, int], blocks: Sequence[int]) -> None:
    """Have a `Masking.find` run before the first of its window and of ``blocks``; its `Masking.ops` must be in force there."""
    if getattr(swap.tower.module, "rope_mixed", False):
        swap.restore()
        raise UserError(
            "each block of this model has rotary positions of its own, so blocks cannot be run again: use mask=massive."
        )
    first, last = window
    add(swap, partial(LookAhead, at=min((first, *blocks)), first=first, last=last, find=find))


class LookAhead:
    """Asks ``find`` whenever block ``at`` is entered, until the swap is restored; the answer goes into the pass's memo.

    ``find(hidden, rerun)`` gets the input of block ``first`` ``[B, N, D]`` and a way to run blocks first..last on it again.
    """

    def __init__(self, swap: Swap, at: int, first: int, last: int, find: Find) -> None:
        self.swap = swap
        self.at = at
        self.first = first
        self.last = last
        self.find = find
        swap._hooks.append(swap.tower.blocks[at].register_forward_pre_hook(self.before, with_kwargs=True))

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of block ``at``; a look-ahead does not look ahead."""
        if self.swap.frame.aside:
            return
        with self.swap._run.clock("looking ahead"):
            hidden, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
            others = {name: value for name, value in kwargs.items() if args or name != "hidden_states"}
            if self.first > self.at:
                hidden = self.swap.rerun(hidden, self.at, self.first - 1, *rest, **others)
            found = self.find(hidden if self.swap.tower.batch_first else hidden.transpose(0, 1), self._rerun(hidden, rest, others))
        self.swap.frame.memo.update({key: at_first(value, self.swap.frame.tokens) for key, value in found.items()})

    def _rerun(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rerun:
        axis = 0 if self.swap.tower.batch_first else 1
        blocks = self.swap.tower.blocks[self.first : self.last + 1]

        def rerun(memo: Memo, images: Tensor | None) -> Memo:
            def some(value: Any) -> Any:
                """The rows of the chosen images, of whatever has one row an image."""
                of_batch = isinstance(value, Tensor) and images is not None and value.shape[0] == hidden.shape[axis]
                return value[images] if of_batch else value

            x = hidden if images is None else hidden.index_select(axis, images)
            with self.swap._run.look_ahead(stock=False) as frame:
                frame.memo.update(memo)
                frame.tokens = frame.tokens if images is None else of_images(frame.tokens, images)
                run_blocks(blocks, x, *map(some, args), **{name: some(value) for name, value in kwargs.items()})
                return frame.memo

        return rerun
