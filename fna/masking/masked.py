"""An attention that wraps an attention and takes some keys away from some queries.

Which keys from which queries is the pattern; how is the mode: "mask" sets their logits to minus infinity before the softmax, so
the row renormalises; "sink" sets their weights to zero after it, so they still absorb but give nothing. Both after FNA (arXiv
2507.16018) and its authors' code. T is the set of tokens, of patches only: CLS, registers and appended tokens are never in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fna.masking.rules import Rule, patches
from fna.ops.contract import Attention, Site, Unsupported, not_traced, same_tokens
from fna.ops.rows import row_logits, softmax_rows
from fna.ops.spread import at_first
from fna.ops.taken import tally

FOUND = "found"  # under which a mask keeps its tokens in the memo; whoever else seeks tokens uses a name of their own
Mode = Literal["mask", "sink"]
MODES = get_args(Mode)
Category = Literal["massive", "artifact", "both"]
CATEGORIES = get_args(Category)
Pattern = Literal["type1", "type2", "inside", "others_to_set", "set_to_all", "set_to_others", "all", "self"]

# pattern -> (keys taken from queries outside T, keys taken from queries in T)
PATTERNS: Mapping[str, tuple[str, str]] = {
    "type1": ("set", "set"),  # all -> T
    "type2": ("set", "set but self"),  # all -> T, but a token of T still attends to itself
    "inside": ("none", "set"),  # T -> T
    "others_to_set": ("set", "none"),  # all but T -> T
    "set_to_all": ("none", "all"),  # T -> all
    "set_to_others": ("none", "all but set"),  # T -> all but T
    "all": ("all", "all"),  # no attention at all
    "self": ("none", "self"),  # T's diagonal
}


@dataclass(frozen=True)
class Masked:
    """``op`` with the tokens that ``tokens`` picks taken away.

    ``tokens``: a rule, judged in this very block, or `Found`. Whatever op is wrapped serves the queries outside T; where those
    in T are to see something else, their rows are computed exactly (R x N, never N x N).
    """

    op: Attention
    tokens: Rule | Found
    mode: Mode = "mask"
    pattern: Pattern = "type1"

    def __post_init__(self) -> None:
        check_words(self.mode, self.pattern)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q ``[B, H, Nq, d]``, k and v ``[B, H, Nk, d]`` -> ``[B, H, Nq, d]``; a query left without any key gives zeros."""
        chosen = self.tokens(q, k, site) & patches(site, k.shape[2]).to(k.device)
        tally(chosen)
        return take_away(self.op, q, k, v, site, chosen, self.mode, self.pattern)


@dataclass(frozen=True)
class Found:
    """The tokens that an earlier block or a look-ahead left in the memo: "massive", "artifact" or "both"."""

    category: Category

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"mask.tokens={self.category}: there is {', '.join(CATEGORIES)}.")

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]`` over today's tokens: a merged token belongs to the set if any part of it does."""
        massive, sinks = (site.memo.get((FOUND, name)) for name in ("massive", "sinks"))
        if massive is None or (sinks is None and self.category != "massive"):
            raise Unsupported(
                f"block {site.layer} asks for {self.category} tokens, but no block before it has looked for them; mask=found does."
            )
        if sinks is None or self.category == "massive":
            return on_tokens(massive, site)
        return on_tokens(sinks & ~massive if self.category == "artifact" else sinks | massive, site)


@dataclass(frozen=True)
class Watched:
    """``op`` unchanged, after ``rule`` has put down under ``name`` which tokens are massive, for later blocks."""

    op: Attention
    rule: Rule
    name: str = FOUND

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """As ``op``."""
        with site.clock("masking rule"):
            site.memo[self.name, "massive"] = at_first(self.rule(q, k, site), site.tokens)
        return self.op(q, k, v, site)


def check_words(mode: str, pattern: str) -> None:
    """Raise ValueError for an unknown mode or pattern."""
    for knob, word, known in (("mode", mode, MODES), ("pattern", pattern, tuple(PATTERNS))):
        if word not in known:
            raise ValueError(f"mask.{knob}={word}: there is {', '.join(known)}.")


def take_away(op: Attention, q: Tensor, k: Tensor, v: Tensor, site: Site, chosen: Tensor, mode: str, pattern: str) -> Tensor:
    """``op`` with the keys that ``pattern`` names taken away; ``chosen`` bool ``[B, Nk]`` is T. Returns ``[B, H, Nq, d]``."""
    outside, inside = PATTERNS[pattern]
    if outside == "all":
        return torch.zeros_like(q)
    if outside == "none":
        out = op(q, k, v, site)
    elif mode == "sink":
        out = op(q, k, v.masked_fill(chosen[:, None, :, None], 0), site)
    else:
        out = _without_keys(op, q, k, v, site, chosen)
    if inside == outside:
        return out
    same_tokens(op, q, k, site)
    return _exact_inside(out, q, k, v, site, chosen, mode, inside)


def _without_keys(op: Attention, q: Tensor, k: Tensor, v: Tensor, site: Site, chosen: Tensor) -> Tensor:
    """``op`` that does not see the chosen keys. What it keeps for later layers is kept apart from that of the unmasked blocks."""
    seen = ~chosen if site.keys is None else site.keys & ~chosen
    memo: dict[Any, Any] = site.memo.setdefault("masked", {})
    if site.keys is None and site.tokens.prefix + site.tokens.suffix > 0:
        return op(q, k, v, replace(site, keys=seen, memo=memo))
    # An op need not know what to do with an image that has no key left: it gets them all, and its answer is dropped.
    blind = ~seen.any(1, keepdim=True)
    out = op(q, k, v, replace(site, keys=seen | blind, memo=memo))
    return out.masked_fill(blind[:, None, None], 0)


def _exact_inside(out: Tensor, q: Tensor, k: Tensor, v: Tensor, site: Site, chosen: Tensor, mode: str, inside: str) -> Tensor:
    """``out`` with the rows of T replaced by exact attention without the keys that ``inside`` names."""
    not_traced(f"how many rows pattern={inside} makes exact", chosen)
    count = int(chosen.sum(1).max()) if len(chosen) else 0
    if count == 0:
        return out
    # T's tokens first, then others: the rows of an image are distinct, so that writing back an unused slot changes nothing.
    rows = (~chosen).byte().argsort(dim=1, stable=True)[:, :count]
    used = chosen.gather(1, rows)
    gone = _gone(inside, chosen, rows)[:, None]
    logits = row_logits(q, k, site, rows)
    weights = softmax_rows(logits.masked_fill(gone, float("-inf"))) if mode == "mask" else softmax_rows(logits).masked_fill(gone, 0)
    index = rows[:, None, :, None].expand(-1, out.shape[1], -1, out.shape[3])
    fresh = (weights.to(v.dtype) @ v).to(out.dtype)
    return out.scatter(2, index, fresh.where(used[:, None, :, None], out.gather(2, index)))


def _gone(inside: str, chosen: Tensor, rows: Tensor) -> Tensor:
    """bool ``[B, R, Nk]``: the keys that each row of T loses."""
    everywhere = chosen[:, None].expand(-1, rows.shape[1], -1)
    itself = torch.arange(chosen.shape[1], device=rows.device) == rows[..., None]
    return {
        "none": torch.zeros_like(everywhere),
        "set": everywhere,
        "set but self": everywhere & ~itself,
        "all": torch.ones_like(everywhere),
        "all but set": ~everywhere,
        "self": itself,
    }[inside]


def on_tokens(found: Tensor, site: Site) -> Tensor:
    """A set found among the original tokens ``[B, N0]``, over today's ``[B, N]``."""
    if site.tokens.version == 0:
        return found
    if site.tokens.source is None or site.tokens.sizes is None:
        raise Unsupported(f"block {site.layer}: tokens were merged or dropped without saying where each went; mask before that.")
    count = site.tokens.sizes.shape[1]
    landed = found.new_zeros(found.shape[0], count + 1, dtype=torch.long)
    source = site.tokens.source.where(site.tokens.source >= 0, count)  # dropped tokens land in a column of their own
    return landed.scatter_add(1, source, found.long())[:, :count] > 0
