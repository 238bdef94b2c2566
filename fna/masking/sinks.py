"""The sink set, found by taking the strongest sink away again and again, and what becomes of every token.

After FNA's authors' code: with the tokens found so far taken away in a window of blocks, the patch to which CLS gives most joins
the set if it gets more than CLS gives itself; one patch per image and round, until no image adds one or the cap is reached.
Artifact tokens are the sinks that are not massive: they only grow once the massive ones are out of the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fna.masking.masked import FOUND, Mode, take_away
from fna.masking.rules import Rule, eligible, outgrown
from fna.ops.contract import Attention, Site, Tokens
from fna.ops.exact import Exact
from fna.ops.rows import cls_attention

NAMES = ("cls", "massive", "artifact", "normal")
CLS, MASSIVE, ARTIFACT, NORMAL = range(4)


class Sinks(NamedTuple):
    """``found`` bool ``[B, N]``; ``order`` int64 ``[B, cap]``: the token that each round added, -1 where it added none."""

    found: Tensor
    order: Tensor


def sink_set(
    attention: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    candidates: Tensor,
    *,
    factor: float = 1.0,
    least: float = 0.0,
    cap: int = 20,
) -> Sinks:
    """Iterate until no image adds a token, at most ``cap`` rounds.

    ``attention(images, found)``: what CLS gives to every token ``[b, N]`` (mean over heads) with ``found`` bool ``[b, N]`` taken
    away, for the images numbered ``images`` int64 ``[b]``, and which tokens have then grown enough to be added, bool ``[b, N]``;
    images that are done are not asked for again. ``candidates`` bool ``[B, N]``: what may be found at all. ``least``: as in
    `ClsProxy`, an even share being what is left for each candidate.
    """
    found = torch.zeros_like(candidates)
    order = torch.full((candidates.shape[0], cap), -1, device=candidates.device)
    images = torch.arange(candidates.shape[0], device=candidates.device)
    for number in range(cap):
        weights, grown = attention(images, found[images])
        best = weights.masked_fill(~(candidates[images] & grown) | found[images], float("-inf")).max(dim=1)
        even = weights.sum(1) / candidates[images].sum(1).clamp_min(1)  # sunk tokens keep their share: the sum is below 1
        adds = best.values > torch.maximum(factor * weights[:, 0], least * even)
        images, new = images[adds], best.indices[adds]
        if len(images) == 0:
            break
        found[images, new] = True
        order[images, number] = new
    return Sinks(found, order)


def categories(massive: Tensor, sinks: Tensor, tokens: Tokens) -> Tensor:
    """int64 ``[B, N]`` into `NAMES`: every token in exactly one. Prefix and suffix tokens all count as CLS."""
    kind = torch.full(massive.shape, NORMAL, device=massive.device)
    kind[sinks] = ARTIFACT
    kind[massive] = MASSIVE
    kind[:, : tokens.prefix] = CLS
    kind[:, massive.shape[1] - tokens.suffix :] = CLS
    return kind


@dataclass(frozen=True)
class Window:
    """``op`` in the running pass; in a look-ahead, exact attention without the tokens to be taken away.

    A look-ahead finds those in its memo under (``name``, "hide"), bool ``[B, N]``: windows of several names may wrap each other.
    Block ``detect`` leaves its answer beside it: "given", what CLS gives to each token ``[B, N]``; "grown", whose norm stands out
    (see `ClsProxy`); "eligible", what may be flagged at all; "massive", what ``rule`` flags, if that is not known.
    """

    op: Attention
    rule: Rule
    detect: int
    mode: Mode = "mask"
    stands: float = 0.0
    name: str = FOUND

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """As ``op``."""
        hide: Tensor | None = site.memo.get((self.name, "hide"))
        if hide is None:
            return self.op(q, k, v, site)
        if site.layer == self.detect:
            left = replace(site, keys=~hide if site.keys is None else site.keys & ~hide) if self.mode == "mask" else site
            given = cls_attention(q, k, left).masked_fill(hide, 0)
            answer = {"given": given, "grown": outgrown(site, q, self.stands), "eligible": eligible(site, q)}
            site.memo.update({(self.name, what): tokens for what, tokens in answer.items()})
            if (self.name, "massive") not in site.memo:
                site.memo[self.name, "massive"] = self.rule(q, k, site)
        return take_away(Exact(), q, k, v, site, hide, self.mode, "type1")
