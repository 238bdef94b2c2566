"""Drawing landmarks once a forward pass: how many, which tokens must be among them, and sharing them between layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from fna.ops.contract import BadInput, Site, Unsupported, whole
from fna.ops.kernels import for_onnx
from fna.values import MOST

Drawn = TypeVar("Drawn")


def check_landmarks(landmarks: object) -> None:
    """Raise `BadInput` unless ``landmarks`` is a count from 1 to `MOST` or a fraction between 0 and 1."""
    number = isinstance(landmarks, int | float) and not isinstance(landmarks, bool)
    if not number or not (0 < landmarks < 1 or (1 <= landmarks <= MOST and landmarks == int(landmarks))):  # type: ignore[operator, call-overload]
        raise BadInput(f"landmarks={landmarks}: give a count from 1 to {MOST}, or a fraction of the tokens between 0 and 1.")


def check_sampler(op: object, sampler: object, gives: type) -> None:
    """Raise `BadInput` for a sampler of the other kind: tokens where groups are needed, or groups where tokens are."""
    if getattr(sampler, "gives", None) is not gives:
        named = {"Landmarks": "tokens (fps, random, uniform)", "Centroids": "groups of tokens (segment_means, kmeans)"}[
            gives.__name__
        ]
        raise BadInput(f"{type(op).__name__} cannot use sampler {type(sampler).__name__}: choose one that gives {named}.")


def count_landmarks(landmarks: int | float, tokens: int) -> int:
    """How many of ``tokens`` a count or a fraction (at least one) means. More than there are: all, with a warning."""
    if landmarks < 1:
        return max(1, round(landmarks * tokens))
    if landmarks > tokens:
        taken = "there all of them are taken, which few methods turn into exact attention (attn=exact is)."
        # how many tokens is left out: a reducer makes that another sentence in every block
        warnings.warn(f"landmarks={landmarks} is more than a block has tokens: {taken}", stacklevel=2)
    return min(int(landmarks), tokens)


def draw(
    sampler: Callable[..., Drawn], q: Tensor, k: Tensor, v: Tensor, site: Site, landmarks: int | float, resample_every: int
) -> Drawn:
    """What ``sampler`` gives for this forward pass, drawn in the first block that asks and shared through ``site.memo``.

    Prefix and suffix tokens are kept as landmarks, tokens that may not be seen are dropped. ``resample_every``: 0 draws once, r
    draws anew when the last draw is r layers old. Kept under the version of the tokens, so merging makes a new draw; a block whose
    windows are not as many as those of the one before draws its own.
    """
    if torch.jit.is_tracing() and for_onnx():
        raise Unsupported("torch.onnx.export(..., dynamo=False) cannot write landmarks down: leave dynamo at True.")
    tokens = whole(k.shape[-2])
    count = count_landmarks(landmarks, tokens)
    found = drawn_before(sampler, k.shape[0], tokens, site, count, resample_every)
    if found is None:
        with site.clock("sampling"):
            keep, drop = _kept(site, k), None if site.keys is None else ~site.keys
            found = sampler(q, k, v, site, count, keep, drop)
        site.memo[_key(sampler, tokens, site, count)] = (site.layer, found, k.shape[0])
    return found


def drawn_before(
    sampler: Callable[..., Drawn], images: int, tokens: int, site: Site, count: int, resample_every: int
) -> Drawn | None:
    """What an earlier block of this pass drew for as many images and tokens, where it serves here too; else None."""
    layer, found, of = site.memo.get(_key(sampler, tokens, site, count), (site.layer, None, 0))
    return None if of != images or (resample_every and site.layer - layer >= resample_every) else found


def _key(sampler: Callable[..., Drawn], tokens: int, site: Site, count: int) -> tuple[object, ...]:
    return ("landmarks", sampler, site.tokens.version, tokens, count)


def _kept(site: Site, k: Tensor) -> Tensor | None:
    """Prefix and suffix tokens that may be seen: bool ``[N]`` or ``[B, N]``, None where there are none."""
    tokens = whole(k.shape[-2])
    if site.tokens.prefix + site.tokens.suffix == 0:
        return None
    position = torch.arange(tokens, device=k.device)
    ends = (position < site.tokens.prefix) | (position >= tokens - site.tokens.suffix)
    return ends if site.keys is None else ends & site.keys
