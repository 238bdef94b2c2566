"""A layer of transformers' cache that stores fewer entries than it reports, each with its own position, validity and bias.

transformers is told the true length (`get_seq_length`), so that positions and padding masks go on as if nothing were missing; what
is really there, and which of it a query may see, only this layer knows (`KeptLayer.mask`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from fna.errors import UserError
from fna.kv.contract import Kept

PARTS = ("k", "v", "positions", "valid", "bias")
SPARE = 16  # a sixteenth of the entries is kept free, so that not every new token copies the layer


class Growing:
    """A tensor ``[B, G, n, ...]`` that grows along its third axis into memory held ready for it."""

    def __init__(self, x: Tensor) -> None:
        self.room, self.length = x, x.shape[2]

    @property
    def view(self) -> Tensor:
        """What has been put in, without the spare room."""
        return self.room[:, :, : self.length]

    def append(self, x: Tensor) -> None:
        """``x`` ``[B, G, m, ...]`` behind what is there. A copy of the whole only where the room is used up."""
        end = self.length + x.shape[2]
        if end > self.room.shape[2]:
            spare = max(SPARE, end // SPARE)
            room = x.new_empty((*x.shape[:2], end + spare, *x.shape[3:]))
            room[:, :, : self.length] = self.view
            self.room = room
        self.room[:, :, self.length : end] = x
        self.length = end

    def rows(self, index: Tensor) -> Growing:
        """Other rows of the batch."""
        return Growing(self.view.index_select(0, index.to(self.room.device)))


class KeptLayer(CacheLayerMixin):
    """``seen``: the true length. ``answered``: how many forwards came after the prompt. ``memo``: the policy's, see `LayerState`.

    ``columns`` int64 ``[B, m]``: which columns the next entries are, of ``total`` that this forward brings; None: those that
    follow. ``new`` bool ``[B, m]``: which of them are no padding; None: all. ``asked`` ``[B, m]``: which columns came last, -1 for
    padding.
    """

    is_croppable = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Growing] = {}
        self.parked = self.seen = self.answered = 0
        self.complete = False  # whether the prompt is over
        self.memo: dict[str, Tensor] = {}
        self.columns: Tensor | None = None
        self.total = 0
        self.asked = torch.empty(0, 0, dtype=torch.long)
        self.new: Tensor | None = None

    @property
    def entries(self) -> Kept:
        """Everything that is stored."""
        view = {name: part.view for name, part in self.parts.items()}
        return Kept(view["k"], view["v"], view["positions"], view.get("valid"), view.get("bias"), self.parked)

    def put(self, kept: Kept, before: Kept | None = None) -> None:
        """Store ``kept`` in the place of ``before``, which `entries` gave; tensors that are the same ones keep their spare room."""
        self.parked = kept.parked
        for name in PARTS:
            part = getattr(kept, name)
            if part is None:
                self.parts.pop(name, None)
            elif before is None or part is not getattr(before, name):
                self.parts[name] = Growing(part)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first `update` brings all there is."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append k, v ``[B, G, m, d]`` and hand back what this forward attends to."""
        batch, heads, count = key_states.shape[:3]
        next_ones = torch.arange(self.seen, self.seen + count, device=key_states.device).expand(batch, -1)
        columns = next_ones if self.columns is None else self.columns
        self.asked = columns if self.new is None else torch.where(self.new, columns, -1)
        self.seen += count if self.columns is None else self.total
        new = {"k": key_states, "v": value_states, "positions": columns[:, None].expand(-1, heads, -1)}
        if self.new is not None:
            new["valid"] = self.new[:, None].expand(-1, heads, -1)
        if not self.parts:
            self.parts = {name: Growing(part) for name, part in new.items()}
            self.is_initialized = True
        else:
            self._append(new)
        held = self.parts["k"].view, self.parts["v"].view
        self.keys, self.values = (part[:, :, self.parked :] if self.parked else part for part in held)
        return self.keys, self.values

    def _append(self, new: dict[str, Tensor]) -> None:
        old, like = self.parts["positions"].view, new["positions"]
        if "valid" in new and "valid" not in self.parts:
            self.parts["valid"] = Growing(torch.ones_like(old, dtype=torch.bool))
        if "valid" in self.parts:
            new.setdefault("valid", torch.ones_like(like, dtype=torch.bool))
        if "bias" in self.parts:
            new["bias"] = torch.zeros_like(like, dtype=self.parts["bias"].room.dtype)
        for name, part in new.items():
            self.parts[name].append(part)

    def mask(self, queries: int, heads: int, dtype: torch.dtype) -> Tensor | None:
        """What the last ``queries`` entries, as queries, may see of what `update` gave: ``[B or 1, H or 1, queries, n]``.

        Bool, or float with the bias in it; None where one query sees everything. All stored entries come before the new ones, which
        see each other causally, and themselves in any case: a query of padding that saw nothing would give NaN.
        """
        kept = self.entries
        count = kept.k.shape[2] - kept.parked
        place = torch.arange(count, device=kept.k.device)
        own = place[-queries:, None]
        seen = None if queries == 1 else (place <= own)[None, None]
        if kept.valid is not None:
            valid = kept.valid[:, :, None, kept.parked :]
            seen = (valid if seen is None else valid & seen) | (place == own)
        if kept.bias is not None:
            bias = kept.bias[:, :, None, kept.parked :].to(dtype)
            seen = bias if seen is None else torch.where(seen, bias, torch.finfo(dtype).min)
        return seen if seen is None or seen.shape[1] == 1 else seen.repeat_interleave(heads // seen.shape[1], 1)

    def get_seq_length(self) -> int:
        """The true length, as if nothing had been dropped."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As of a layer that stores everything: the mask that is made of it serves the prompt."""
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Raise `UserError`: assisted generation takes tokens back, and a compressed cache cannot."""
        if tokens_to_remove:
            raise UserError(
                "a compressed cache cannot take tokens back: use no assisted generation (assistant_model) beside kv=..."
            )

    def reset(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The rows that a beam search goes on with."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows."""
        self.parts = {name: part.rows(indices) for name, part in self.parts.items()}
        self.memo = {name: part.index_select(0, indices.to(part.device)) for name, part in self.memo.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row ``repeats`` times."""
        rows = len(self.parts["k"].room) if self.parts else 0
        self.batch_select_indices(torch.arange(rows).repeat_interleave(repeats))


class KeptCache(Cache):
    """The cache of one conversation (or batch of them) under a policy."""

    def __init__(self, depth: int) -> None:
        self.kept = [KeptLayer() for _ in range(depth)]
        super().__init__(layers=list(self.kept))

    @property
    def lengths(self) -> list[int]:
        """Entries stored in each layer; of a batch those of its longest row."""
        return [layer.parts["k"].length if layer.parts else 0 for layer in self.kept]

    @property
    def bytes(self) -> int:
        """What all layers hold in memory, spare room, positions and biases included."""
        parts = [part.room for layer in self.kept for part in layer.parts.values()]
        return sum(part.untyped_storage().nbytes() for part in parts)
