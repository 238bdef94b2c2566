"""What becomes of a decoder's keys and values: the prompt, what a policy is shown, and what it returns.

Axes, everywhere in this folder: ``B`` batch, ``H`` query heads, ``G`` key heads (H a multiple of G), ``N`` entries of a layer's
cache, ``n`` kept ones, ``d`` head width, ``P`` columns of the prompt. Keys carry their rotary positions already.

A policy is a frozen dataclass, made by ``conf/kv/*.yaml``, that holds no tensors. It does one or more of four things, each a
method that `fna.surgery.cache` looks for by name:

- ``keep(state) -> Kept``: at the end of the prompt, once per layer (`CachePolicy`);
- ``step(state) -> Kept | None``: after every later forward, once per layer; None leaves the cache alone (`Stepping`);
- ``prune(block) -> Stay | None``: inside the prompt's own forward, before each block: fewer columns from there on (`Pruning`);
- ``attend(state) -> Tensor | None``: the attention of a layer, the prompt's and every later forward's, None: as the model does it
  (`Attending`).

``sees_hidden``, where a policy says so: it is shown the residual stream that enters the block (`LayerState.hidden`).
``positions``, where a policy has it: whether what is left keeps its rotary position, or is renumbered so that no gap remains.

What it must not do: let a row depend on its batch mates, or look at a padding column. Kept entries of a row are in ascending
order of position (parked ones apart), and a row that keeps fewer than the longest is padded at the end with ``valid`` False.
A row without columns that may be compressed keeps everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Positions = Literal["original", "renumbered"]
FIRST, LAST = 4, 32  # columns at the ends of a text without an image that nobody compresses: attention sinks, and the question


@dataclass(frozen=True, eq=False)
class Prompt:
    """Which columns of a prompt may be compressed, and which are no padding: bool ``[B, P]`` each.

    ``image``: the image tokens, or where a model has no eyes the middle of the text (`middle`).
    """

    image: Tensor
    valid: Tensor

    @classmethod
    def middle(cls, valid: Tensor, first: int = FIRST, last: int = LAST) -> Prompt:
        """All but the ``first`` and ``last`` columns of each row that are no padding."""
        place = valid.long().cumsum(1)
        return cls(valid & (place > first) & (place <= place[:, -1:] - last), valid)

    def repeated(self, batch: int) -> Prompt:
        """For ``batch`` rows, a multiple of the own: beams and samples of one prompt lie side by side."""
        times = batch // len(self.valid)
        return self if times == 1 else Prompt(self.image.repeat_interleave(times, 0), self.valid.repeat_interleave(times, 0))


@dataclass(frozen=True, eq=False)
class Kept:
    """The entries of a layer: k, v ``[B, G, n, d]``, ``positions`` int64 ``[B, G, n]``, columns of the sequence.

    ``valid`` bool ``[B, G, n]``: which count; None: all. ``bias`` float ``[B, G, n]``: added to the logits of these keys, None: 0.
    ``parked``: how many entries at the front are stored but take no part in attention until the next `Kept` says otherwise.
    """

    k: Tensor
    v: Tensor
    positions: Tensor
    valid: Tensor | None = None
    bias: Tensor | None = None
    parked: int = 0


@dataclass(frozen=True, eq=False)
class LayerState:
    """A layer as a policy sees it, after its attention has run.

    ``q`` ``[B, H, Q, d]``: the queries of this forward, at columns ``asked`` int64 ``[B, Q]``, -1 for padding. At the end of the
    prompt these are all of its queries (of a prompt that came in chunks: the last chunk's). ``entries``: everything that the
    layer holds, the new entries last. ``step``: 0 at the end of the prompt, then 1, 2, ... ``memo``: the policy's own, per layer
    and conversation: tensors ``[B, ...]`` by name, which follow their rows through a beam search. ``hidden`` ``[B, Q, D]``: what
    entered the block in this forward; None where the policy did not ask for it.
    """

    q: Tensor
    asked: Tensor
    entries: Kept
    prompt: Prompt
    layer: int
    depth: int
    scale: float
    step: int = 0
    memo: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None

    @property
    def k(self) -> Tensor:
        """Keys ``[B, G, N, d]``."""
        return self.entries.k

    @property
    def v(self) -> Tensor:
        """Values ``[B, G, N, d]``."""
        return self.entries.v

    @property
    def image(self) -> Tensor:
        """Which entries may be compressed, bool ``[B, G, N]``."""
        return self._of(self.prompt.image, False) & self.valid

    @property
    def valid(self) -> Tensor:
        """Which entries count, bool ``[B, G, N]``."""
        entries = self.entries
        return torch.ones_like(entries.positions, dtype=torch.bool) if entries.valid is None else entries.valid

    def _of(self, columns: Tensor, after: bool) -> Tensor:
        """What bool ``[B, P]`` says of each entry; ``after`` of those that came later than the prompt."""
        positions, last = self.entries.positions, columns.shape[1] - 1
        said = columns[:, None].expand(-1, positions.shape[1], -1).gather(2, positions.clamp(max=last))
        return torch.where(positions > last, after, said)

    def with_entries(self, entries: Kept) -> LayerState:
        """The same with other entries."""
        return replace(self, entries=entries)


@dataclass(frozen=True, eq=False)
class Block:
    """The prompt before a block: ``hidden`` ``[B, n, D]`` at ``columns`` int64 ``[B, n]``; ``there`` bool ``[B, n]``: no padding.

    ``image`` bool ``[B, n]``: which of them may be dropped. ``embedded`` ``[B, P, D]``: what entered block 0. ``before``: what
    the block before attended to (None in block 0), its state as `LayerState`. ``memo``: one for all blocks of this prompt; "sight"
    in it: what the vision tower saw.
    """

    layer: int
    depth: int
    hidden: Tensor
    columns: Tensor
    there: Tensor
    image: Tensor
    prompt: Prompt
    embedded: Tensor
    before: LayerState | None
    memo: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Stay:
    """Which columns go on, bool ``[B, n]`` (the last one of each row among them), and their ``hidden``, None: as they were."""

    mask: Tensor
    hidden: Tensor | None = None


@runtime_checkable
class CachePolicy(Protocol):
    """``version`` (a ClassVar) is raised when the numbers change; it is part of every row's key."""

    version: int

    def keep(self, state: LayerState) -> Kept: ...


@runtime_checkable
class Stepping(Protocol):
    """A policy that changes the cache while answering."""

    def step(self, state: LayerState) -> Kept | None: ...


@runtime_checkable
class Pruning(Protocol):
    """A policy that drops columns inside the decoder."""

    def prune(self, block: Block) -> Stay | None: ...


@runtime_checkable
class Attending(Protocol):
    """A policy that changes how a layer attends: ``[B, H, Q, d]`` from a state whose last entries are this forward's."""

    def attend(self, state: LayerState) -> Tensor | None: ...
