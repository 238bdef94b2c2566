"""Landmarks that are not tokens: means of groups of tokens. One grouping an image, shared by its heads; means are a head's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.ops.contract import BadInput, Site, whole
from fna.ops.inverse import full_precision
from fna.ops.kernels import cpu, differentiated, for_onnx
from fna.ops.landmarks import FarthestPoint, Features, check_features, features_of, head_mean
from fna.values import between

TIE = 1e-3  # of a squared distance: what rounding moves those of a group by


@dataclass(frozen=True, eq=False)
class Centroids:
    """``assignment`` int64 ``[B, N]``: the group of each token, -1 for none. ``sizes`` int64 ``[B, M]``: members, 0 if empty."""

    assignment: Tensor
    sizes: Tensor


@runtime_checkable
class CentroidSampler(Protocol):
    """Sorts tokens into groups; ``gives`` says so before the first call. The arguments are those of a `TokenSampler`."""

    gives: ClassVar[type]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Centroids: ...


@dataclass(frozen=True)
class SegmentMeans:
    """Runs of consecutive tokens, as in Nyströmformer; kept tokens are groups of their own.

    The A free tokens of a row are cut into m' = count - kept runs of nearly equal length, free token i going to run
    floor(i m' / A), so that no padding is needed.
    """

    gives: ClassVar[type] = Centroids
    fixed: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Centroids:
        kept, free = _kept_and_free(q, keep, drop)
        held, total = kept.sum(1, keepdim=True), free.sum(1, keepdim=True)
        runs = torch.minimum((count - held).clamp_min(0), total)
        run = held + (free.cumsum(1) - 1) * runs // total.clamp_min(1)
        return _grouped(torch.where(free & (runs > 0), run, _own_group(kept, count)), count)


@dataclass(frozen=True)
class KMeans:
    """k-means on ``features`` from a farthest-point start, ``steps`` Lloyd steps; kept tokens are groups of their own."""

    features: Features = "q"
    steps: Annotated[int, between(0, 1_000)] = 3
    gives: ClassVar[type] = Centroids
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_features(self.features)
        if self.steps < 0:
            raise BadInput(f"sampler.steps={self.steps}: give 0 or more Lloyd steps.")

    @torch.no_grad()
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Centroids:
        kept, free = _kept_and_free(q, keep, drop)
        start = FarthestPoint(self.features)(q, k, v, site, count, keep, drop)
        x = _centred(features_of(self.features, q, k, v, site), None if drop is None else kept | free)
        open_ = torch.arange(count, device=x.device) >= kept.sum(1, keepdim=True)
        open_ = open_ if start.valid is None else open_ & start.valid
        centres = x.gather(1, start.index[..., None].expand(-1, -1, x.shape[-1]))
        own = _own_group(kept, count)
        groups = _nearest(x, centres, open_, free, own)
        return _grouped(_lloyd(x, groups, count, self.steps, kept, free), count)


@dataclass(frozen=True)
class DriftingKMeans:
    """k-means in every block, from where the block before left off: its groups are the start, farthest points that of the first.

    A token is much like what it was, so ``steps`` Lloyd steps do the work of a new start. Groups that have become empty stay so.
    """

    features: Features = "k"
    steps: Annotated[int, between(1, 1_000)] = 2
    gives: ClassVar[type] = Centroids
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_features(self.features)
        if self.steps < 1:
            raise BadInput(f"sampler.steps={self.steps}: give 1 or more Lloyd steps, since tokens move from block to block.")

    @torch.no_grad()
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, count: int, keep: Tensor | None = None, drop: Tensor | None = None
    ) -> Centroids:
        key = ("groups", self, site.tokens.version, whole(k.shape[2]), count)
        before: Centroids | None = site.memo.get(key)
        if before is None or before.assignment.shape[0] != k.shape[0]:  # windows of another number
            groups = KMeans(self.features, self.steps)(q, k, v, site, count, keep, drop)
        else:
            kept, free = _kept_and_free(q, keep, drop)
            x = _centred(self._seen(q, k, v, site), None if drop is None else kept | free)
            start = before.assignment.masked_fill(~(kept | free), -1)  # what can no longer be seen
            groups = _grouped(_lloyd(x, start, count, self.steps, kept, free), count)
        site.memo[key] = groups
        return groups

    def _seen(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """The features of this block, taken once for all counts of groups."""
        here = (site.layer, site.tokens.version, whole(k.shape[2]))
        place, x = site.memo.get(("features", self.features), (None, None))
        if place != here:
            x = features_of(self.features, q, k, v, site)
            site.memo["features", self.features] = (here, x)
        return x


def group_sums(x: Tensor, assignment: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Weighted sums of ``x`` ``[B, H, N, d]`` over the groups, ``[B, H, M, d]``, in float32 at least.

    On a CPU one read of the tokens, in their own order; elsewhere a product with the membership matrix, as the order of a scatter,
    and so its rounding, would vary.
    """
    if cpu.reads(x) and not (weights is not None and differentiated(weights)):
        return cpu.group_sums(x, assignment, count, weights)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type == "cpu" and not for_onnx():
        counted = x.to(dtype) if weights is None else x.to(dtype) * weights[:, None, :, None].to(dtype)
        slot = (assignment + 1)[:, None, :, None].expand_as(counted)  # 0: no group
        nothing = counted.new_zeros((x.shape[0], x.shape[1], count + 1, x.shape[3]))
        return nothing.scatter_add(2, slot, counted)[:, :, 1:]
    member = _members(assignment, count).to(dtype)
    if weights is not None:
        member = member * weights[:, None, :].to(dtype)
    batch, heads, tokens, width = x.shape
    side_by_side = x.transpose(1, 2).reshape(batch, tokens, heads * width).to(dtype)
    return torch.bmm(member, side_by_side).view(batch, count, heads, width).transpose(1, 2)


def group_mass(groups: Centroids, weights: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """How much each group weighs, ``[B, M]``: its size, or the sum of its members' ``weights`` ``[B, N]``."""
    if weights is None:
        return groups.sizes.to(dtype)
    return torch.where(_members(groups.assignment, groups.sizes.shape[1]), weights[:, None, :].to(dtype), 0.0).sum(-1)


def group_means(groups: Centroids, bias: Tensor | None, *parts: Tensor) -> tuple[list[Tensor], Tensor]:
    """Means over the groups of each of ``parts`` ``[B, H, N, d]``, in its dtype, ``[B, H, M, d]``; and the groups' mass ``[B, M]``.

    ``bias`` ``[B, N]``: a token of bias b counts as exp(b) of them, one of -inf not at all. A group of no mass has zeros.
    """
    weights = None if bias is None else bias.exp()
    mass = group_mass(groups, weights, torch.promote_types(parts[0].dtype, torch.float32))
    divisor = torch.where(mass > 0, mass, 1.0)[:, None, :, None]
    count = groups.sizes.shape[1]
    return [(group_sums(part, groups.assignment, count, weights) / divisor).to(part.dtype) for part in parts], mass


def typical(k: Tensor, groups: Centroids) -> Tensor:
    """The member of each group whose head-mean key is nearest to the group's, int64 ``[B, M]``; 0 for an empty group.

    The first among equals, by two scatters whose order cannot show. Both members of a group of two lie equally far from its mean:
    equal is what is within `TIE`, or the last bit would choose.
    """
    (batch, count), tokens = groups.sizes.shape, k.shape[2]
    x = head_mean(k.detach())
    means = group_sums(x[:, None], groups.assignment, count)[:, 0] / groups.sizes.clamp_min(1)[..., None]
    slot = groups.assignment.masked_fill(groups.assignment < 0, count)
    own = F.pad(means, (0, 0, 0, 1)).gather(1, slot[..., None].expand_as(x))
    distance = (x - own).square().sum(-1)
    least = distance.new_full((batch, count + 1), float("inf")).scatter_reduce(1, slot, distance, "amin")
    position = torch.arange(tokens, device=k.device).where(distance <= (1 + TIE) * least.gather(1, slot), tokens)
    first = position.new_full((batch, count + 1), tokens).scatter_reduce(1, slot, position, "amin")[:, :count]
    return first.where(first < tokens, 0)


def logarithm(counts: Tensor, there: Tensor) -> Tensor:
    """``log counts`` ``[B, M]`` as a bias of groups, -inf for those that are not there."""
    return torch.where(there, counts.clamp_min(torch.finfo(counts.dtype).tiny).log(), float("-inf"))


def _members(assignment: Tensor, count: int) -> Tensor:
    """Bool ``[B, M, N]``: which tokens are in which group."""
    return assignment[:, None, :] == torch.arange(count, device=assignment.device)[:, None]


def _kept_and_free(q: Tensor, keep: Tensor | None, drop: Tensor | None) -> tuple[Tensor, Tensor]:
    """Bool ``[B, N]`` each: tokens with a group of their own, and tokens to be grouped."""
    shape = (q.shape[0], q.shape[2])
    kept = torch.zeros(shape, dtype=torch.bool, device=q.device) if keep is None else keep.expand(shape)
    return kept, ~kept if drop is None else ~(kept | drop)


def _centred(x: Tensor, seen: Tensor | None) -> Tensor:
    """``x`` ``[B, N, D]`` less the mean of what is ``seen`` ``[B, N]`` (None: all), and 0 where nothing is.

    That keeps |c|^2 - 2 x c from losing digits to a common offset, and what may not be seen from making one.
    """
    if seen is None:
        return x - x.mean(1, keepdim=True)
    x = torch.where(seen[..., None], x, 0.0)
    mean = x.sum(1, keepdim=True) / seen.sum(1).clamp_min(1)[:, None, None]
    return torch.where(seen[..., None], x - mean, 0.0)


def _lloyd(x: Tensor, groups: Tensor, count: int, steps: int, kept: Tensor, free: Tensor) -> Tensor:
    """``groups`` int64 ``[B, N]`` after ``steps`` Lloyd steps on ``x`` ``[B, N, D]``; empty and kept ones stay so."""
    own = _own_group(kept, count)
    others = torch.arange(count, device=x.device) >= kept.sum(1, keepdim=True)
    for _ in range(steps):
        with full_precision(x):
            sums, sizes = group_sums(x[:, None], groups, count)[:, 0], _sizes(groups, count)
        groups = _nearest(x, sums / sizes.clamp_min(1)[..., None], others & (sizes > 0), free, own)
    return groups


def _own_group(kept: Tensor, count: int) -> Tensor:
    """The groups of kept tokens, in ascending order from 0; -1 for other tokens and for those beyond ``count``."""
    rank = kept.cumsum(1) - 1
    return torch.where(kept & (rank < count), rank, -1)


def _nearest(x: Tensor, centres: Tensor, open_: Tensor, free: Tensor, own: Tensor) -> Tensor:
    """The group of every token, int64 ``[B, N]``: for free tokens the nearest open centre, the lowest index among equals."""
    size = centres.square().sum(-1).masked_fill(~open_, float("inf"))
    if cpu.serves(x, centres):
        nearest = cpu.nearest(x, centres, size)
    else:
        with full_precision(x):
            nearest = torch.baddbmm(size[:, None, :], x, centres.mT, alpha=-2).argmin(-1)
    return torch.where(free & open_.any(1, keepdim=True), nearest, own)


def _grouped(assignment: Tensor, count: int) -> Centroids:
    """`Centroids` of an assignment, its members counted."""
    return Centroids(assignment, _sizes(assignment, count))


def _sizes(assignment: Tensor, count: int) -> Tensor:
    """How many tokens each group has: int64 ``[B, M]``. Whole numbers, so that the order of a scatter does not show."""
    found = assignment.new_zeros(assignment.shape[0], count + 1)
    return found.scatter_add(1, assignment + 1, torch.ones_like(assignment))[:, 1:]
