"""Local and clustered attention (ours): each token's neighbourhood exactly, the rest through clusters; for all blocks.

Early blocks are nearly local and not of low rank, so Nyström methods fail there. Here every token sees the 5 x 5 grid cells around
it as they are, and all others through M groups that are drawn anew in every block. A key counts once: for query i, group c is what
is left of it outside the window W_i. With n_ic keys left, k_ic and v_ic their means, and scale s:

    out_i = [sum_W e^{s q_i k_j} v_j + sum_c n_ic e^{s q_i k_ic} v_ic] / [sum_W e^{s q_i k_j} + sum_c n_ic e^{s q_i k_ic}]

One normaliser, all weights positive, no inverse. It is linear in N, since s q_i k_ic = (s q_i K_c - sum of s q_i k_j over what W_i
and c share) / n_ic with the group's sum K_c: the window knows the second term. With f_ic = e^{s q_i k_ic} the numerator is

    sum_c f_ic V_c + sum_W (e^{s q_i k_j} - f_ic(j)) v_j

Then the residual: tokens are grouped again, more finely; what exact attention of a group's most typical token differs by from the
above is added to all its members. Prefix and suffix tokens are groups of their own in both, so exact as keys and as queries.

Relative positions b_ij are added to the logits of the window; a group has b_it, that of its most typical token t, in its logit, as
their mean would need all N x N.
docs/fna_local.md: cost, each part switched off, where it fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.bias import PairBias
from fna.ops.centroids import Centroids, CentroidSampler, DriftingKMeans, group_mass, group_sums, typical
from fna.ops.contract import BadInput, Site, Unsupported, pair_bias, refuse, same_tokens, whole
from fna.ops.drawing import check_landmarks, check_sampler, count_landmarks, draw
from fna.ops.exact import exact_rows
from fna.ops.inverse import full_precision
from fna.ops.kernels import cpu, cpu_local, differentiated, gpu
from fna.ops.nystrom import additive
from fna.ops.rows import gather_rows
from fna.ops.short import few_queries
from fna.ops.windows import Tiles, tiles
from fna.values import Count, Share, between

MOST_ROWS = 100
Window = Annotated[int, between(1, 1_001)]
Rows = Annotated[int, between(0, MOST_ROWS)]
RESIDUE = 1e-5  # of a group's mass: less than that outside the window is rounding, or nothing


@dataclass(frozen=True)
class LocalClusters:
    """Windows and clusters. ``landmarks``: how many groups, prefix tokens among them, a count or a fraction of the tokens below 1.

    ``window``: cells a side, odd. ``rows``: so many times as many exact rows as groups for the residual, 0 for none. Blocks after
    the first and before the share ``early`` of the depth (1 and 2 of 12) have ``early_window`` and ``early_rows`` instead: what
    those miss, all later ones see. Without a grid (merged tokens) the tokens stand in one row. Honours ``keys`` and ``key_bias``
    (b counts as exp(b) copies of a token); refuses ``causal``, and queries that are not the keys' tokens; and ``dense``: a bias of
    each query and each key in its window would have to be there N x N.
    """

    sampler: CentroidSampler = field(default_factory=DriftingKMeans)
    landmarks: Count | float = 32
    window: Window = 5
    rows: Rows = 2
    early: Share = 0.25
    early_window: Window = 9
    early_rows: Rows = 5
    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_landmarks(self.landmarks)
        check_sampler(self, self.sampler, Centroids)
        if not 0 <= self.early <= 1:
            raise BadInput(f"early={self.early}: give a share of the blocks, from 0 (none are special) to 1.")
        for name in ("rows", "early_rows"):
            if not 0 <= getattr(self, name) <= MOST_ROWS:
                raise BadInput(f"{name}={getattr(self, name)}: give 0 (no residual) or up to {MOST_ROWS} exact rows a landmark.")
        for name in ("window", "early_window"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise BadInput(
                    f"{name}={getattr(self, name)}: give an odd number of cells a side, so that the token is in the middle."
                )

    def here(self, site: Site) -> tuple[int, int]:
        """The window and the exact rows a landmark of the site's block."""
        early = 0 < site.layer < self.early * site.depth
        return (self.early_window, self.early_rows) if early else (self.window, self.rows)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """q, k, v ``[B, H, N, d]`` to ``[B, H, N, d]`` in q's dtype."""
        refuse(self, site, "causal")
        relative = pair_bias(self, site)
        same_tokens(self, q, k, site)
        layout = _layout(whole(k.shape[2]), site)
        ends = layout.outside(q.device)
        if not layout.cells:
            return exact_rows(torch.zeros_like(q), q, k, v, ends, site)
        window, rows = self.here(site)
        count = max(count_landmarks(self.landmarks, layout.tokens), min(layout.ends + 1, layout.tokens))
        groups = draw(self.sampler, q, k, v, site, count, resample_every=1)
        bias = additive(site.keys, site.key_bias)
        with site.clock("windows and clusters"), full_precision(q):  # what is taken out of a group must be what was put in
            reach = min(window // 2, max(layout.grid) - 1)
            out = windowed(q, k, v, groups, layout, reach, site.scale, bias, relative).to(q.dtype)
        if rows:
            fine = draw(self.sampler, q, k, v, site, min(rows * count, layout.tokens), resample_every=1)
            with site.clock("residual"):
                out = out + residual(out, q, k, v, fine, site.scale, bias, relative)
            if bias is None:
                return out  # a token outside the grid is its group's typical one: exact already
        return exact_rows(out, q, k, v, ends, site)


@dataclass(frozen=True)
class Layout:
    """Where the grid lies in a sequence of ``tokens``: ``cells`` tokens from ``start`` on, (rows, columns) of them."""

    tokens: int
    start: int
    grid: tuple[int, int]

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def stop(self) -> int:
        """The first token after the grid."""
        return self.start + self.cells

    @property
    def ends(self) -> int:
        """How many tokens are not of the grid."""
        return self.tokens - self.cells

    def outside(self, device: torch.device) -> Tensor:
        """The tokens that are not of the grid: int64 ``[ends]``."""
        position = torch.arange(self.ends, device=device)
        return torch.where(position < self.start, position, position + self.cells)


def _layout(tokens: int, site: Site) -> Layout:
    """The grid that the site tells, or all tokens between prefix and suffix in one row."""
    start, free = min(site.tokens.prefix, tokens), max(0, tokens - site.tokens.prefix - site.tokens.suffix)
    grid = site.tokens.grid or (1, free)
    if grid[0] * grid[1] != free:
        raise Unsupported(
            f"LocalClusters: a grid of {grid[0]} x {grid[1]} cells does not hold {free} tokens (block {site.layer}): "
            "say what the tokens are now, or use attn=exact there."
        )
    return Layout(tokens, start, grid)


def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Centroids,
    layout: Layout,
    reach: int,
    scale: float,
    bias: Tensor | None,
    relative: PairBias | None = None,
) -> Tensor:
    """The first formula above for the grid's tokens, zeros elsewhere: ``[B, H, N, d]``; summed in float32 at least.

    q, k, v ``[B, H, N, d]``; ``bias`` ``[B, N]`` on the keys, -inf hides one. A query that sees nothing gets zeros. ``relative``
    positions are added in plain torch: the kernels take none.
    """
    weight = None if bias is None else _weights(bias)
    key_sums, value_sums = (group_sums(x, groups.assignment, groups.sizes.shape[1], weight) for x in (k, v))
    mass = group_mass(groups, weight, key_sums.dtype)
    derived = differentiated(k, v) if weight is None else differentiated(k, v, weight)
    if relative is None and not derived and (cpu.reads(q, k, v) or gpu.available(q, mass.shape[1])):
        return cpu_local.windowed(
            q, k, v, key_sums, value_sums, mass, groups.assignment, layout.start, *layout.grid, reach, scale, weight
        )
    cut = tiles(layout.grid, reach, q.device)
    seen = None if relative is None else _positions(relative, cut, layout, typical(k, groups), mass.dtype)
    return _plain(q, k, v, key_sums, value_sums, mass, groups.assignment, layout, cut, scale, weight, seen)


def _positions(relative: PairBias, cut: Tiles, layout: Layout, typical: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Relative positions of the queries of each tile to its keys ``[B or 1, H or 1, T, Q, K]``, and to the groups' typical tokens
    ``[B or 1, H or 1, T, Q, M]``."""
    far = relative.columns(typical)[:, :, layout.start : layout.stop][:, :, cut.queries]
    return relative.tiles(layout.start + cut.queries, layout.start + cut.keys).to(dtype), far.to(dtype)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, key_sums: Tensor, value_sums: Tensor, mass: Tensor, group: Tensor, layout: Layout, cut: Tiles,
    scale: float, weight: Tensor | None, positions: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """`windowed` in tiles of the grid: a tile's logits are products, and so is taking them out of groups and putting them in."""
    dtype, cells = mass.dtype, slice(layout.start, layout.stop)
    queries = q[:, :, cells][:, :, cut.queries].to(dtype) * scale  # [B, H, T, Q, d]
    keys, values = (x[:, :, cells][:, :, cut.keys].to(dtype) for x in (k, v))  # [B, H, T, K, d]
    member = (group[:, cells][:, cut.keys][..., None] == torch.arange(mass.shape[1], device=q.device)).to(dtype)  # [B, T, K, M]
    if weight is not None:
        weight = weight[:, cells][:, cut.keys].to(dtype)
        member = member * weight[..., None]
    near = cut.near.to(dtype)
    left = mass[:, None, None] - near @ member  # [B, T, Q, M]
    there = (left > RESIDUE * mass[:, None, None])[:, None]
    logits = queries @ keys.mT
    far = (queries.flatten(2, 3) @ key_sums.mT).unflatten(2, queries.shape[2:4]) - (logits * near) @ member[:, None]
    far = far / torch.where(there, left[:, None], 1.0)
    if positions is not None:
        logits, far = logits + positions[0], far + positions[1]
    far = far.masked_fill(~there, float("-inf"))
    logits = (logits if weight is None else logits + weight.log()[:, None, :, None]).masked_fill(~cut.near, float("-inf"))
    top = torch.maximum(logits.amax(-1, keepdim=True), far.amax(-1, keepdim=True)).detach()
    top = top.masked_fill(torch.isneginf(top), 0.0)
    far, logits = (far - top).exp(), (logits - top).exp()
    total = logits.sum(-1, keepdim=True) + (far * left[:, None]).sum(-1, keepdim=True)
    slot = group[:, cells][:, cut.keys].clamp_min(0)[:, None, :, None, :].expand_as(logits)
    others = far.gather(-1, slot) if weight is None else far.gather(-1, slot) * weight[:, None, :, None]
    corrected = logits - near * others
    sums = (far.flatten(2, 3) @ value_sums).unflatten(2, queries.shape[2:4]) + corrected @ values
    middle = (sums / total.masked_fill(total == 0, 1.0)).flatten(2, 3)[:, :, cut.place]
    return F.pad(middle, (0, 0, layout.start, layout.tokens - layout.stop))


def residual(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Centroids,
    scale: float,
    bias: Tensor | None,
    relative: PairBias | None = None,
) -> Tensor:
    """What to add to ``out`` ``[B, H, N, d]``: for members of a group, exact attention less ``out`` at its typical token."""
    rows = typical(k, groups)
    exact = few_queries(gather_rows(q, rows), k, v, scale, bias, None if relative is None else relative.rows(rows).to(q.dtype))
    off = (exact - gather_rows(out, rows)).to(out.dtype)
    batch, heads, count, width = off.shape
    place = groups.assignment.clamp_min(0) + torch.arange(batch, device=q.device)[:, None] * count
    tokens = off.transpose(1, 2).reshape(batch * count, heads * width).index_select(0, place.flatten())
    shared = tokens.view(batch, k.shape[2], heads, width).transpose(1, 2)
    return shared if bias is None else shared * (groups.assignment >= 0)[:, None, :, None]


def _weights(bias: Tensor) -> Tensor:
    """How many tokens each counts for, relative to the one that counts most: ``[B, N]``, 0 for hidden ones."""
    top = bias.amax(-1, keepdim=True)
    return (bias - top.masked_fill(torch.isneginf(top), 0.0)).exp()
