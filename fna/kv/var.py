"""VAR, visual attention redistribution (arXiv 2503.03321, ICLR 2025; code seilk/VisAttnSink, Apache-2.0): no token is dropped.

Sinks draw attention whatever they show, and are told by a few channels of the residual stream: a token is one where such a
channel of it, over the root mean square of all, exceeds ``tau``. A head that gives the image at least ``least`` of its attention,
and image sinks at most ``rho`` of that, is about the image: its sinks, text's and image's, keep ``p`` of what they drew, and the
image's other tokens get what that frees, in proportion. Per head and query, for queries behind the image, those of the answer
too; not in the first two blocks, nor in the last; nothing in a block without an image sink.

The channels belong to a base model (Llama 2 7B: 1415 and 2533; 13B: 2100 and 4743). By default they are those in which the first
token of the prompt is a sink in that block, by which the authors found them. No channel can exceed the root of the width, so that
at the published ``tau`` of 20 a decoder narrower than 400 has no sinks and is left as it is. The maps of all queries are made for
this: slower, never faster. Not kept from the release: 1e-6 added to each weight of the image's share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fna.errors import UserError
from fna.kv.contract import LayerState
from fna.kv.select import SLAB, weights, whole_prompt
from fna.values import Positive, Share, at_least

FIRST = 2  # block that is changed
EPSILON = 1e-6  # beside the mean square, as in the model's own norm


@dataclass(frozen=True)
class Redistribution:
    """See the head of this file. ``channels`` None: found in every prompt."""

    tau: Positive = 20.0
    rho: Share = 0.5
    least: Share = 0.2
    p: Share = 0.6
    channels: Sequence[Annotated[int, at_least(0)]] | None = None
    version: ClassVar[int] = 1
    sees_hidden: ClassVar[bool] = True

    def attend(self, state: LayerState) -> Tensor | None:
        """The attention ``[B, H, Q, d]`` of a block that has sinks in the image. Raises `UserError` for a prompt in chunks."""
        if not FIRST <= state.layer < state.depth - 1:
            return None
        sinks = self._sinks(state)
        if not bool((sinks & state.image[:, 0]).any()):
            return None
        v = state.v.float()[:, :, None]
        parts = zip(state.q.split(SLAB, 2), state.asked.split(SLAB, 1), strict=True)
        rows = [(self._moved(weights(state, q, asked), asked, sinks, state) @ v).flatten(1, 2) for q, asked in parts]
        return torch.cat(rows, 2).to(state.q.dtype)

    def _sinks(self, state: LayerState) -> Tensor:
        """Which entries are sinks, bool ``[B, N]``: those of earlier forwards, and the new ones."""
        assert state.hidden is not None
        x = state.hidden.float()
        size = (x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()).abs()
        memo = state.memo
        if state.step == 0:
            whole_prompt(self, state)
            memo["channels"] = self._channels(size, state)
        new = ((size > self.tau) & memo["channels"][:, None]).any(-1) & (state.asked >= 0)
        memo["sinks"] = new if state.step == 0 else torch.cat([memo["sinks"], new], 1)
        return memo["sinks"]

    def _channels(self, size: Tensor, state: LayerState) -> Tensor:
        """The channels of sinks, bool ``[B, D]``. Raises `UserError` for those that this decoder has not."""
        if self.channels is not None:
            place = torch.arange(size.shape[-1], device=size.device)
            if max(self.channels, default=0) >= len(place):
                raise UserError(
                    f"kv.channels={[*self.channels]}: this decoder is {len(place)} wide; give some of 0 to {len(place) - 1}, or "
                    "null, which finds them in every prompt."
                )
            return torch.isin(place, torch.tensor(list(self.channels), device=size.device)).expand(len(size), -1)
        first = (state.asked >= 0).long().argmax(1)
        return size[torch.arange(len(size), device=size.device), first] > self.tau

    def _moved(self, a: Tensor, asked: Tensor, sinks: Tensor, state: LayerState) -> Tensor:
        """Weights ``a`` ``[B, G, h, w, N]`` of queries at columns ``asked`` ``[B, w]``, redistributed where a head is about the
        image."""
        image = state.image[:, 0]
        last = torch.where(image, state.entries.positions[:, 0], -1).amax(-1)
        behind = (asked > last[:, None])[:, None, None, :, None]
        seen, drawing, others = (which[:, None, None, None] for which in (image, sinks, image & ~sinks))
        total = (a * seen).sum(-1, keepdim=True)
        drawn = (a * (seen & drawing)).sum(-1, keepdim=True)
        rest = (a * others).sum(-1, keepdim=True)
        has = (image & sinks).any(-1)[:, None, None, None, None]
        chosen = behind & has & (total >= self.least) & (drawn <= self.rho * total) & (rest > 0)
        freed = (1 - self.p) * (a * drawing).sum(-1, keepdim=True)
        grown = 1 + freed / rest.clamp_min(torch.finfo(a.dtype).tiny)
        return torch.where(chosen, a * torch.where(drawing, self.p, torch.where(others, grown, 1.0)), a)
