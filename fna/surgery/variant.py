"""A variant: all that is done to a model. `FULL`, exact attention, an approximation, the same unmasked: one type for all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from fna.errors import UserError
from fna.ops.contract import Attention, Site, Tokens, probe
from fna.ops.exact import Exact
from fna.surgery.blocks import Tower, find_tower
from fna.surgery.conversation import in_force
from fna.surgery.lookahead import Masking, masked_blocks, swap_masked
from fna.surgery.reduce import Reducer, check_reducer, reducing, tokens_after
from fna.surgery.registers import Registers
from fna.surgery.smaller import Resize
from fna.surgery.swap import Swap
from fna.versions import settings, versions

GRID = (3, 4)  # of the tiny input that `Variant.check` tries
PROBED = 1 + GRID[0] * GRID[1]


@dataclass(frozen=True)
class Variant:
    """``ops``: block -> attention; ``mask``: what ``conf/mask`` says, calibrated; ``reduce``: what merges or drops tokens; ``kv``:
    what becomes of the cache of a decoder. With none of them the model is untouched."""

    label: str
    ops: Mapping[int, Attention] = field(default_factory=dict)
    mask: Masking | Registers | None = None
    reduce: Reducer | Resize | None = None
    kv: Any = None

    @property
    def untouched(self) -> bool:
        """Whether the model stays as it is."""
        return not self.ops and self.mask is None and self.reduce is None and self.kv is None

    def on(self, model: nn.Module | Tower, **options: Any) -> AbstractContextManager[Any]:
        """Put it in force on ``model`` until the context ends, which gives the model back bit for bit.

        ``options`` are those of `swap_tower`. Raises `UserError` where this model cannot be changed so.
        """
        if self.kv is not None:
            return self._conversing(model, options)
        return nullcontext() if self.untouched else self.swap(model, **options)

    @contextmanager
    def _conversing(self, model: nn.Module | Tower, options: Mapping[str, Any]) -> Iterator[None]:
        """With the policy in force for every prompt, and whatever else there is."""
        with ExitStack() as held:
            if self.ops or self.mask is not None or self.reduce is not None:
                held.enter_context(self.swap(model, **options))
            held.enter_context(in_force(model.module if isinstance(model, Tower) else model, self.kv))
            yield

    def swap(self, model: nn.Module | Tower, **options: Any) -> Swap:
        """The handle of `on`, for a variant that does something."""
        if self.reduce is None or isinstance(self.reduce, Resize):
            swap = swap_masked(model, self.ops, self.mask, **options)
            return swap if self.reduce is None else self.reduce.on(swap)
        # What is merged has to weigh as much in every block: those without an op get exact attention through our seam.
        ops: dict[int, Attention] = dict.fromkeys(range(len(find_tower(model).blocks)), Exact())
        return reducing(swap_masked(model, ops | dict(self.ops), self.mask, **options), self.reduce)

    def decides(self) -> dict[str, Any]:
        """What of it decides a row, as plain data: every setting and the version of the code behind it; not its label."""
        if self.untouched:
            return {"attn": "full"}
        blocks: dict[str, Any] = {}
        for layer, op in sorted(self.ops.items()):
            told = [settings(op), versions(op)]
            blocks.setdefault(repr(told), [told, []])[1].append(layer)
        parts = {name: getattr(self, name) for name in ("mask", "reduce", "kv")}
        others = {name: None if part is None else [settings(part), versions(part)] for name, part in parts.items()}
        return {"ops": list(blocks.values()), **others}

    def check(self, depth: int) -> None:
        """Raise `UserError` for blocks that a model of ``depth`` blocks lacks, and for whatever an op refuses on a tiny input."""
        if isinstance(self.mask, Registers):
            self.mask.check(depth)
        elif self.mask is not None:
            masked_blocks(self.mask.blocks, depth)
        for op, layer in self._distinct():
            self.try_op(op, layer)

    def fits(self, model: nn.Module) -> None:
        """Raise `UserError` for a model whose tokens cannot be reduced so, or that has no cache to be compressed."""
        if self.kv is not None:
            from fna.surgery.cache import check_policy

            check_policy(model, self.kv)
        if self.reduce is not None and not isinstance(self.reduce, Resize):
            check_reducer(find_tower(model), self.reduce)

    def try_op(self, op: Attention, layer: int) -> None:
        """Run ``op`` on a tiny input as in block ``layer``; tokens that a mask would have found are there, and none is one.

        With a reducer it is run again on what that leaves.
        """
        sequences = [(Tokens(1, grid=GRID), PROBED)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so few tokens are fewer than any real count of landmarks
            try:
                if self.reduce is not None and not isinstance(self.reduce, Resize):
                    sequences.append(tokens_after(self.reduce))
                for tokens, count in sequences:
                    memo = {} if self.mask is None else self.mask.nothing_found(1, PROBED)
                    hidden = torch.zeros(1, count, 8)
                    site = Site(0.5, layer=layer, depth=layer + 1, tokens=tokens, hidden=hidden, memo=memo, key_bias=tokens.bias)
                    probe(op, site, tokens=count)
            except Exception as error:
                if not isinstance(error, UserError):  # a bug in it, which stays one
                    error.add_note("on a tiny input, before any weights are loaded")
                raise

    def facts(self, depth: int) -> dict[str, Any]:
        """What ``result.json`` says of it beyond the names of its options."""
        told: dict[str, Any] = {}
        for op, _ in self._distinct():
            for part in (op, getattr(op, "sampler", None)):
                told |= getattr(part, "facts", dict)()
        if self.mask is None or isinstance(self.mask, Registers):
            return told
        blocks = masked_blocks(self.mask.blocks, depth)
        first, detect = self.mask.window(depth)
        return told | {
            "mask_start": min(blocks, default=None), "mask_blocks": list(blocks), "mask_detect": detect, "mask_first": first
        }  # fmt: skip

    def _distinct(self) -> list[tuple[Attention, int]]:
        """Each op once, with the first block that has it."""
        found: dict[str, tuple[Attention, int]] = {}
        for layer, op in sorted(self.ops.items()):
            found.setdefault(repr(settings(op)), (op, layer))
        return list(found.values())

    def first_block(self, depth: int) -> int:
        """The first block in which anything is done, or looked for: up to it, the model runs as it is."""
        if self.untouched:
            return depth
        if self.reduce is not None or self.kv is not None or isinstance(self.mask, Registers):
            return 0
        masked = () if self.mask is None else (*masked_blocks(self.mask.blocks, depth), *self.mask.window(depth))
        return min((*self.ops, *masked))

    def unmasked(self) -> Variant:
        """The same without its mask."""
        return replace(self, label=f"{self.label} without its mask", mask=None)


FULL = Variant("full")


def exact(layers: tuple[int, ...]) -> Variant:
    """Exact attention through the seam in ``layers``: what a variant has to be faster than."""
    return Variant("exact", dict.fromkeys(layers, Exact()))
