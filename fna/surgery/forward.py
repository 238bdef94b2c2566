"""One forward pass through a changed tower: its memo, the tokens it holds, and where it starts and ends.

A pass starts at block 0's pre-hook and ends after the last block: feature extractors bypass the model's own hooks, never these. The
state is kept per thread, so one model can serve two threads. Hooks are bound methods: they survive deepcopy, pickle and compile.
"""

from __future__ import annotations

import math
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from fna.errors import UserError
from fna.ops.contract import Clock, Memo, Site, Tokens, no_clock, whole
from fna.ops.drawing import hangs_on_pass

Grid = tuple[int, int]


class Call(NamedTuple):
    """What a block's attention was called with: q ``[B, H, N, d]``, k ``[B, H or groups, N, d]``, and where."""

    q: Tensor
    k: Tensor
    site: Site


@dataclass(eq=False)
class Frame:
    """What is known during one pass. ``hidden`` ``[B, N, D]``: the residual stream entering the running block.

    ``tokens`` is None until somebody changes the tokens (appends, merges, drops) and says what they are now. ``grid``: that of the
    image at hand; ``whole``: of the one that it was before somebody made it smaller. ``aside``: a
    look-ahead, which block 0 does not restart; ``stock``: the changed blocks run their own attention in it. ``alone``: a
    block called outside any pass, or such blocks one after another from ``start`` on. ``last``: the changed block entered last;
    ``seen``: whether its seam was called; ``out``: what it gave. ``crossed``: the pass before this one came to no end. ``call``:
    what its attention was called with, until the reducer has looked (`fna.surgery.reduce`).
    """

    memo: Memo = field(default_factory=dict)
    tokens: Tokens | None = None
    grid: Grid | None = None
    whole: Grid | None = None
    hidden: Tensor | None = None
    aside: bool = False
    stock: bool = False
    alone: bool = False
    start: int = 0
    last: int = -1
    seen: bool = False
    out: weakref.ref[Tensor] | None = None
    crossed: bool = False
    call: Call | None = None

    def goes_on(self, layer: int, hidden: Tensor) -> bool:
        """Whether block ``layer`` follows the one entered last and is given what that gave."""
        return layer == self.last + 1 and self.out is not None and self.out() is hidden


class Forward:
    """The passes through one tower, a stack of frames for each thread."""

    def __init__(
        self,
        *,
        depth: int,
        prefix: int,
        grid: Grid | None,
        first: int = 0,
        batch_first: bool = True,
        clock: Clock = no_clock,
        on_end: Callable[[Memo], None] | None = None,
    ) -> None:
        self.depth = depth
        self.prefix = prefix
        self.grid = grid
        self.first = first  # the first changed block, from which on blocks of a pass share what they draw
        self.batch_first = batch_first
        self.clock = clock
        self.on_end = on_end
        self.passes = 0
        self.cut = False  # whether images were cut into patches,
        self.begun = False  # and whether any block began on them
        self.reduced = False  # whether a reducer looks at the calls
        self.called: set[int] = set()
        self.told: set[str] = set()  # what was warned of
        self.unsourced = ""  # the reducer that took tokens away and did not say where they went
        self._thread = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model starts idle and reports to nobody: the clock and the listener belong to the original's owner."""
        return {**vars(self), "_thread": None, "clock": no_clock, "on_end": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._thread = threading.local()

    @property
    def frames(self) -> list[Frame]:
        """This thread's stack: empty between passes."""
        if not hasattr(self._thread, "frames"):
            self._thread.frames = []
        return self._thread.frames

    @property
    def frame(self) -> Frame:
        """The running pass; a fresh one where a seam is called outside any."""
        return self.frames[-1] if self.frames else Frame(alone=True)

    def see_grid(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Hook of the patch projection: its output ``[B, D, rows, columns]`` tells the grid of this very image.

        Where patches come cut already, one a row, its grids of 1 x 1 tell nothing.
        """
        self.cut = True
        grid = (whole(output.shape[-2]), whole(output.shape[-1])) if output.dim() == 4 else None
        self._thread.grid = None if grid == (1, 1) else grid

    def shrunk(self, whole: Grid) -> None:
        """The image about to be seen was made smaller; its patches would have made a grid of ``whole``."""
        self._thread.whole = whole

    def open(self, module: nn.Module, args: Any) -> None:
        """Pre-hook of block 0. Whatever an exception or an early stop left behind goes here."""
        self.begun = True
        if self.frames and self.frames[-1].aside:
            return
        _refuse_symbols(*args)
        crossed = bool(self.frames)
        self.clear()
        grid, whole = getattr(self._thread, "grid", None), getattr(self._thread, "whole", None)
        self.frames.append(Frame(grid=grid, whole=whole, crossed=crossed))
        self._thread.grid = self._thread.whole = None
        self.passes += 1

    def close(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook of the last block."""
        if self.frames and not self.frames[-1].aside:
            frame = self.frames.pop()
            if self.on_end is not None:
                self.on_end(frame.memo)

    def enter(self, layer: int, hidden: Tensor) -> None:
        """A changed block starts, ``hidden`` in the tower's own layout. Going backwards means that this is another pass."""
        _refuse_symbols(hidden)
        self.begun = True
        frame = self.frame
        if frame.crossed and layer == frame.last + 1 and frame.out is not None and not frame.goes_on(layer, hidden):
            raise UserError(
                f"block {layer} was given something else than block {frame.last} gave, after a pass that did not run to its end: "
                "its landmarks would be those of other images. Run each batch through all blocks before the next one."
            )
        if frame.alone or (layer <= frame.last and not frame.aside):
            frame = self._outside(layer, hidden)
            self.frames[-1:] = [frame]
        if hidden.is_nested:
            raise UserError(
                f"block {layer} is given a nested tensor, of sequences without their padding: build nn.TransformerEncoder with "
                "enable_nested_tensor=False (or set its use_nested_tensor so), which takes the mask as it is."
            )
        if hidden.dim() != 3:  # [B, rows, columns, D], as SAM has it, or [N, D], images in a row or one sequence
            hidden = hidden.flatten(1, -2) if hidden.dim() > 3 else hidden.unsqueeze(0 if self.batch_first else 1)
        frame.hidden = hidden if self.batch_first else hidden.transpose(0, 1)
        frame.last, frame.seen = layer, False

    def _outside(self, layer: int, hidden: Tensor) -> Frame:
        """The frame of a block called outside any pass: the last such one's, if it goes on from there."""
        left: Frame | None = getattr(self._thread, "left", None)
        return left if left is not None and left.goes_on(layer, hidden) else Frame(alone=True, start=layer)

    def leave(self, output: Any = None) -> bool:
        """A changed block ends, having given ``output``: whether it called its seam."""
        frame = self.frame
        if frame.seen:
            frame.hidden = None
        out = output[0] if isinstance(output, tuple) else output
        if isinstance(out, Tensor) and not torch.compiler.is_compiling():
            frame.out = weakref.ref(out)
        if frame.alone and self.frames:
            self._thread.left = self.frames.pop()
            self._tell_late(frame)
        return frame.seen

    def _tell_late(self, frame: Frame) -> None:
        """Warn, once, where blocks outside a pass share what a whole pass has from an earlier block."""
        if frame.start > self.first and hangs_on_pass(frame.memo):
            self.tell(
                "late",
                f"block {frame.start} was called outside a pass of the whole model: landmarks are drawn from there on, where a "
                f"pass draws them in block {self.first}.",
            )

    def tell(self, kind: str, words: str) -> None:
        """Warn of a ``kind`` of thing, once."""
        if kind not in self.told and not torch.compiler.is_compiling():
            self.told.add(kind)
            warnings.warn(words, stacklevel=3)

    def check_again(self, frame: Frame, layer: int) -> None:
        """Raise `UserError` for a block that runs again in a backward pass without what earlier ones gave it in the forward one.

        Its gradients would be those of another function. Where its forward alone runs again, without its hooks, nobody has entered.
        """
        start = frame.start if frame.last >= 0 else layer
        lacks = "does not know which tokens were merged" if self.reduced else "draws other landmarks than before"
        again = frame.alone and start > self.first and torch._C._current_graph_task_id() != -1
        if again and (self.reduced or hangs_on_pass(frame.memo)):
            raise UserError(
                f"block {start} runs again in the backward pass, as gradient checkpointing has it, and {lacks}: turn it off, "
                "model.set_grad_checkpointing(False) or model.gradient_checkpointing_disable()."
            )

    @contextmanager
    def look_ahead(self, stock: bool) -> Iterator[Frame]:
        """A pass beside the running one, with a memo of its own; the running one is as before afterwards."""
        outer = self.frame
        self.frames.append(Frame(tokens=outer.tokens, grid=outer.grid, whole=outer.whole, aside=True, stock=stock))
        try:
            yield self.frames[-1]
        finally:
            self.frames.pop()

    def clear(self) -> None:
        """Forget what this thread's last pass left. One that stopped inside a changed block failed and does not count."""
        if self.frames and self.frames[0].hidden is not None and not self.frames[0].alone:
            self.passes -= 1
        self.frames.clear()
        self._thread.left = None

    def layout(self, frame: Frame, count: int) -> Tokens:
        """The tokens of a sequence of ``count``: what was declared, else the grid of this image, of the model, or a square."""
        if frame.tokens is not None:
            return frame.tokens
        patches = count - self.prefix
        if frame.grid is not None and patches >= math.prod(frame.grid):
            return Tokens(self.prefix, suffix=patches - math.prod(frame.grid), grid=frame.grid, whole=frame.whole)
        if self.grid is None or patches < 1:
            return Tokens(self.prefix)
        side = math.isqrt(patches)
        # Of fewer than were cut nobody knows where they lay: MAE hides three quarters of them, which leaves a square number.
        square = (side, side) if side * side == patches and frame.grid is None else None
        return Tokens(self.prefix, grid=self.grid if math.prod(self.grid) == patches else square)


def _refuse_symbols(*args: Any) -> None:
    """Raise `UserError` for what `torch.fx.symbolic_trace` hands round: its graph would have no hooks."""
    if any(isinstance(arg, torch.fx.Proxy) for arg in args):
        raise UserError(
            "torch.fx.symbolic_trace leaves out the hooks that a swap lives by: use torch.export.export or torch.jit.trace "
            "inside the with block."
        )


def refuse_script() -> None:
    """What `torch.jit.script` asks a module for first: it reads the code of classes, where no swap is to be seen."""
    raise UserError(
        "torch.jit.script reads the code of classes and cannot follow a swap: use torch.jit.trace inside the with block."
    )
