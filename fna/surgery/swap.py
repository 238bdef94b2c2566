"""Change the attention of chosen blocks of a model, and change it back.

    with swap_tower(model, {6: op, 7: op}): ...

The handle says what was replaced; a copy of a changed model (deepcopy, pickle) is changed too, and `current_swap` finds its handle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fna.errors import UserError
from fna.ops.contract import Attention, Clock, Memo, Tokens, Unsupported, no_clock
from fna.ops.spread import spread
from fna.surgery.blocks import Tower, find_tower, run_blocks
from fna.surgery.forward import Forward, Frame, refuse_script
from fna.surgery.passed_over import refuse_passed_over
from fna.surgery.seams import Port
from fna.surgery.stacks import check_uncompiled
from fna.surgery.ways import make_seam

_MARK = "_fna_swap"


class Swap:
    """A changed tower: a handle and a context manager. ``plan`` maps block numbers to the ops in force.

    Made by `swap_tower`; in force from then until `restore` or the end of the with block.
    """

    def __init__(self, tower: Tower, plan: Mapping[int, Attention], run: Forward) -> None:
        self.tower = tower
        self.plan = dict(sorted(plan.items()))
        self._run = run
        self._hooks: list[RemovableHandle] = []
        self._undo: list[tuple[Any, str, bool, Any]] = []
        self._active = False

    @property
    def frame(self) -> Frame:
        """This thread's running pass: its memo, its tokens (set them after appending, merging or dropping some)."""
        return self._run.frame

    @property
    def active(self) -> bool:
        """Whether the change is in force."""
        return self._active

    def rerun(
        self, hidden: Tensor, first: int = 0, last: int | None = None, *args: Any, stock: bool = True, **kwargs: Any
    ) -> Tensor:
        """``hidden`` through blocks first..last (both included), beside the running pass, whose memo stays as it is.

        For rules that look ahead, from a pre-hook of block 0 for example. ``stock``: with the model's own attention, else
        with the ops in force and a memo of their own. ``args``, ``kwargs``: what the model hands to each block.
        """
        stop = len(self.tower.blocks) if last is None else last + 1
        with self._run.look_ahead(stock):
            return run_blocks(self.tower.blocks[first:stop], hidden, *args, **kwargs)

    def spread(self, x: Tensor) -> Tensor:
        """``x`` ``[B, N, D]``, what enters or leaves a block of the running pass, over the tokens that the image has at first.

        As it is where nothing was merged, dropped or made smaller, and outside a pass: what the last block gives is whole already.
        Raises `Unsupported` where a reducer did not say into which tokens the others went.
        """
        if name := self._run.unsourced:
            raise Unsupported(
                f"{name}: each token is asked for, and its Tokens do not say into which one each went; give them their source, as "
                "fna.reduce.joining.renewed does (docs/reducers.md)."
            )
        return spread(x, self.tokens(x.shape[1]))

    def tokens(self, count: int) -> Tokens | None:
        """What a sequence of ``count`` holds that enters or leaves a block of the running pass; None outside any."""
        frame = self.frame
        return None if frame.alone else self._run.layout(frame, count)

    def restore(self) -> None:
        """Give the model back as it was, bit for bit; once is enough, twice does no harm."""
        for hook in reversed(self._hooks):
            hook.remove()
        for holder, name, had, old in reversed(self._undo):
            if had:
                vars(holder)[name] = old
            else:
                vars(holder).pop(name, None)
        self._hooks.clear()
        self._undo.clear()
        self._run.clear()
        self._active = False

    def __enter__(self) -> Swap:
        if not self._active:
            raise UserError("this swap has been restored: make a new one.")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        idle = [layer for layer in self.plan if layer not in self._run.called]
        self.restore()
        # A model that ran while a changed block did not would be measured as if it had been changed.
        if kind is None and self._run.passes and idle:
            if (ran := self._run.called) and max(ran) < min(idle):  # stopped before them: the outputs hang on none of them
                warnings.warn(f"blocks {idle} were changed but never ran: the model stopped behind block {max(ran)}", stacklevel=2)
            else:
                raise UserError(f"blocks {idle} were changed but never ran although the model did: choose blocks that it runs.")
        if kind is None and self._run.cut and not self._run.begun:
            raise UserError(
                f"blocks {idle} were changed and images were cut into patches, but no block ran: either this pass has no use "
                "for them, or a graph that torch.fx or torch.compile made of the model before holds them as they were; make it "
                "inside the with block."
            )

    def __repr__(self) -> str:
        ops: dict[str, list[int]] = {}
        for layer, op in self.plan.items():
            ops.setdefault(repr(op), []).append(layer)
        changed = "; ".join(f"blocks {','.join(map(str, layers))}: {op}" for op, layers in ops.items())
        notes = "".join(f"; {note}" for note in self.tower.notes())
        state = "Swap" if self._active else "restored Swap"
        return f"<{state} of {self.tower.kind}, {len(self.tower.blocks)} blocks; {changed}{notes}>"

    def install(self) -> None:
        """Put everything in place, or nothing."""
        try:
            self._set(self.tower.blocks[0], _MARK, self)
            self._set(self.tower.blocks[0], "__prepare_scriptable__", refuse_script)
            self._active = True
            self._hook_ends()
            if self.tower.calls:
                from fna.surgery.seams_hf import install_table

                ports: Mapping[int, Port] = install_table(self.tower, self.plan, self._run, self._set)
            else:
                ports = self._shadow()
            for layer, port in ports.items():
                block = self.tower.blocks[layer]
                self._hooks.append(block.register_forward_pre_hook(port.enter, with_kwargs=True))
                self._hooks.append(block.register_forward_hook(port.leave))
            self._hooks.append(self.tower.blocks[-1].register_forward_hook(self._run.close))
        except BaseException:
            self.restore()
            raise

    def _hook_ends(self) -> None:
        if self.tower.patches is not None:
            self._hooks.append(self.tower.patches.register_forward_hook(self._run.see_grid))
        self._hooks.append(self.tower.blocks[0].register_forward_pre_hook(self._run.open))

    def _shadow(self) -> dict[int, Port]:
        ports: dict[int, Port] = {}
        for layer, op in self.plan.items():
            module = self.tower.specs[layer].attention_of(self.tower.blocks[layer])
            seam = make_seam(self._run, layer, op, module, self.tower.seam)
            self._set(seam.module, "forward", seam.forward)  # of an attention in a wrapper: its own
            ports[layer] = seam
        return ports

    def _set(self, holder: Any, name: str, value: Any) -> None:
        """Set an instance attribute so that `restore` can take it back. Straight into the dict: modules guard theirs."""
        self._undo.append((holder, name, name in vars(holder), vars(holder).get(name)))
        vars(holder)[name] = value


def swap_tower(
    model: nn.Module | Tower,
    plan: Mapping[int, Attention],
    *,
    clock: Clock | None = None,
    on_end: Callable[[Memo], None] | None = None,
    part: str = "vision",
) -> Swap:
    """Route the blocks in ``plan`` (number -> op) through their ops until the handle is restored.

    ``clock`` is what the ops time their stages with. ``on_end`` is shown the memo after each pass, before it is emptied (chosen
    landmarks lie there). ``part``: "vision" or "language". Raises `UserError` for an unknown model, an empty plan, a block that
    is not there, a tower that is already changed, or attention that cannot be changed; the model is then as it was.
    """
    check_uncompiled([model] if isinstance(model, nn.Module) else [])
    tower = find_tower(model, part)
    check_uncompiled([tower.module, *tower.blocks])
    depth = len(tower.blocks)
    if not plan:
        raise UserError(f"nothing to swap: the plan names no block; this model has blocks 0-{depth - 1}.")
    if wrong := [layer for layer in plan if not 0 <= layer < depth]:
        raise UserError(f"blocks {wrong} are not there: this model has blocks 0-{depth - 1}.")
    if bare := sorted(set(plan) & set(tower.bare)):
        pruned = f"{bare[0]} ({type(tower.blocks[bare[0]]).__name__})"
        raise UserError(f"no attention is left in block {pruned}, which somebody pruned: leave it out of layers=.")
    _refuse_repeats(tower, plan)
    refuse_passed_over(tower.blocks)
    if (present := vars(tower.blocks[0]).get(_MARK)) is not None:
        raise UserError(
            f"this tower is already changed ({present!r}): restore that first (by the handle that fna.swap gave, or "
            "fna.surgery.swap.current_swap(model).restore()), or put all ops into one plan."
        )
    run = Forward(
        depth=depth, prefix=tower.prefix, grid=tower.grid, first=min(plan), batch_first=tower.batch_first, clock=clock or no_clock,
        on_end=on_end,
    )  # fmt: skip
    swap = Swap(tower, plan, run)
    swap.install()
    return swap


def current_swap(model: nn.Module, part: str = "vision") -> Swap | None:
    """The handle of the change in force on ``model``, also on a copy of a changed model; None if there is none."""
    return vars(find_tower(model, part).blocks[0]).get(_MARK)


def _refuse_repeats(tower: Tower, plan: Iterable[int]) -> None:
    """Raise `UserError` for a block that is another one as well, whole or in its attention: changed once, it is changed in both."""
    homes: dict[nn.Module, list[int]] = {}
    for number, (block, spec) in enumerate(zip(tower.blocks, tower.specs, strict=True)):
        for module in {block, *(tower.calls[number] if tower.calls else (spec.attention_of(block),))}:
            homes.setdefault(module, []).append(number)
    for numbers in homes.values():
        if len(numbers) > 1 and not set(plan).isdisjoint(numbers):
            raise UserError(
                f"blocks {numbers[0]} and {numbers[1]} of this {tower.kind} are one module, or have one attention between them: to "
                "change one is to change both; give each block a copy of its own first (copy.deepcopy)."
            )
