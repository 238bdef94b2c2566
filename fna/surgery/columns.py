"""Fewer columns from some block on, while the prompt runs: what a policy that prunes inside the decoder needs.

transformers hands every block the positions, rotary tables and mask of the whole prompt; a hook before each block cuts them to the
columns that are left. After the last block every column is back in its place, a dropped one with the state that it was dropped in,
so that logits lie where the caller looks for them.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fna.errors import UserError
from fna.kv.contract import Block, LayerState
from fna.kv.select import places
from fna.surgery.renumber import closed_up
from fna.surgery.session import Session
from fna.surgery.sight import Sight


class Columns:
    """The columns of the running prompt, ``total`` of them at first. ``before``: the state of the block that ran last."""

    def __init__(self, session: Session, sight: Sight) -> None:
        self.session = session
        self.sight = sight  # what the vision tower saw, for policies before block 0
        session.told = self._told
        self.before: LayerState | None = None
        self.total = 0
        self.embedded = torch.empty(0)
        self.left: Tensor | None = None  # int64 [B, n]; None: all of them
        self.there: Tensor | None = None
        self.whole: Tensor | None = None  # [B, N, D], what dropped columns end as
        self.memo: dict[str, Any] = {}

    def install(self, decoder: nn.Module, undo: ExitStack) -> None:
        """Hooks on the tower, before each block and behind the last, until ``undo`` ends."""
        self.sight.install(undo)
        for number, block in enumerate(decoder.layers):  # type: ignore[arg-type]
            undo.callback(block.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True).remove)
        undo.callback(decoder.layers[-1].register_forward_hook(self._leave).remove)  # type: ignore[index, union-attr]

    def _told(self, state: LayerState) -> None:
        self.before = state

    def _enter(self, number: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        layer = self.session.cache.kept[number]
        if layer.complete:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        prompt = self.session.prompt
        assert prompt is not None
        if number == 0:
            if hidden.shape[1] != prompt.valid.shape[1]:
                raise UserError("kv: a policy that prunes inside the decoder needs the prompt in one piece; leave out chunks.")
            self.before, self.left, self.whole, self.memo = None, None, None, {"sight": self.sight}
            self.embedded, self.total = hidden, hidden.shape[1]
        prompt = prompt.repeated(len(hidden))
        if number in self.session.chosen:
            hidden = self._prune(number, hidden, prompt)
        if self.left is None:
            return None
        assert self.there is not None
        layer.columns, layer.new, layer.total = self.left, self.there, self.total
        turned = self.left if self.session.rotary is None else closed_up(self.left, self.there, prompt.valid)
        kwargs = {**kwargs, "attention_mask": self.session.fit(_causal(self.there))}
        for name, axis in (("position_ids", -1), ("position_embeddings", -2)):
            if kwargs.get(name) is not None:
                kwargs[name] = _cut(kwargs[name], turned, axis)
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    def _prune(self, number: int, hidden: Tensor, prompt: Any) -> Tensor:
        """``hidden`` of the columns that go on."""
        columns = torch.arange(self.total, device=hidden.device).expand(len(hidden), -1) if self.left is None else self.left
        there = prompt.valid if self.there is None or self.left is None else self.there
        image = prompt.image.gather(1, columns) & there
        block = Block(number, self.session.depth, hidden, columns, there, image, prompt, self.embedded, self.before, self.memo)
        stay = self.session.policy.prune(block)
        if stay is None:
            return hidden
        wide = columns[..., None].expand_as(hidden)
        self.whole = hidden.clone() if self.whole is None else self.whole.scatter(1, wide, hidden)
        hidden = hidden if stay.hidden is None else stay.hidden
        index, self.there = places(stay.mask & there)
        self.left = columns.gather(1, index)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.left is None or self.whole is None:
            return None
        out = output[0] if isinstance(output, tuple) else output
        assert self.there is not None
        # Entries that pad a shorter row name a column twice: they must not be the ones that are written.
        rows, entries = self.there.nonzero(as_tuple=True)
        whole = self.whole.clone()
        whole[rows, self.left[rows, entries]] = out[rows, entries]
        self.left = self.there = self.whole = self.before = None
        self.embedded = torch.empty(0)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole


def _causal(there: Tensor) -> Tensor | None:
    """Each column sees those before it that are no padding, and itself: bool ``[B, 1, n, n]``; None: causality alone."""
    if bool(there.all()):
        return None
    count = there.shape[1]
    square = torch.ones(count, count, dtype=torch.bool, device=there.device)
    return (there[:, None, None] & square.tril()) | torch.eye(count, dtype=torch.bool, device=there.device)


def _cut(table: Any, index: Tensor, axis: int) -> Any:
    """``table`` (or each of a tuple) at ``index`` ``[B, n]`` along ``axis``; the axis before it is the batch, 1 for all rows."""
    if isinstance(table, tuple | list):
        return type(table)(_cut(part, index, axis) for part in table)
    axis %= table.dim()
    shape = list(table.shape)
    shape[axis - 1] = len(index)
    table = table.expand(shape)
    shape[axis] = index.shape[1]
    spread = index.view([len(index) if a == axis - 1 else index.shape[1] if a == axis else 1 for a in range(len(shape))])
    return table.gather(axis, spread.expand(shape))
