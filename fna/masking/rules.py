"""Which patch tokens are massive: small rules behind one call, each with its source.

A rule is ``rule(q, k, site) -> bool [B, N]``: judged in one block, from what that block is given: q and k ``[B, H, N, d]`` and the
residual stream ``site.hidden`` ``[B, N, D]`` entering it (what the block before gave out). Every image is judged by itself. CLS,
registers, appended tokens and keys that the site hides are never flagged.

Sources: FNA (arXiv 2507.16018 and its authors' code), Darcet et al. (arXiv 2309.16588), Sun et al. (arXiv 2402.17762).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import torch
from torch import Tensor

from fna.ops.contract import Site
from fna.ops.rows import attention_chunks, cls_attention


class Rule(Protocol):
    """One call for every rule; the first field of the dataclass is its knob."""

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor: ...


def patches(site: Site, count: int) -> Tensor:
    """bool ``[count]``: which tokens are neither prefix nor suffix."""
    device = None if site.hidden is None else site.hidden.device
    index = torch.arange(count, device=device)
    return (index >= site.tokens.prefix) & (index < count - site.tokens.suffix)


def eligible(site: Site, like: Tensor) -> Tensor:
    """bool ``[B, N]``: the tokens that a rule may flag, for batch and device of ``like`` ``[B, ..., N, d]``."""
    allowed = patches(site, like.shape[-2]).to(like.device).expand(like.shape[0], -1)
    return allowed if site.keys is None else allowed & site.keys


def residual(site: Site) -> Tensor:
    """The residual stream entering the block, at least float32. Raises ValueError where the site does not carry it."""
    if site.hidden is None:
        raise ValueError(
            f"this rule judges the residual stream, which block {site.layer} was not given: use one that reads q and k."
        )
    return site.hidden.to(torch.promote_types(site.hidden.dtype, torch.float32))


@dataclass(frozen=True)
class FixedNorm:
    """Norm above a threshold (Darcet et al.: 150 for DINOv2-g; 30 for OpenCLIP B/16 in the test-time registers)."""

    threshold: float = 150.0

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``."""
        return (residual(site).norm(dim=-1) > self.threshold) & eligible(site, q)


@dataclass(frozen=True)
class LogGap:
    """Norm above the widest gap of the log norms over a calibration set (FNA's offline rule).

    ``threshold`` comes from `log_gap` over that set; None asks the runner to calibrate first, infinity says that there was no gap.
    """

    threshold: float | None = None

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``. Raises ValueError before calibration."""
        if self.threshold is None:
            raise ValueError("log_gap has no threshold yet: give mask.threshold, or let the runner calibrate on the data set.")
        return (residual(site).norm(dim=-1) > self.threshold) & eligible(site, q)


def log_gap(norms: Tensor, least_ratio: float = 1.25) -> float:
    """The threshold in the widest gap between consecutive log norms of a calibration set.

    ``norms`` ``[T]``: of all patches of all images, pooled. Only gaps above the median count (massive tokens are the few), and
    one narrower than ``least_ratio`` is no gap: infinity is returned, so a model without massive tokens gets none (the widest gap
    at random weights is 1.02). Both are ours; the authors take the widest gap whatever it is, which always flags somebody.
    """
    logs = norms.flatten().double().clamp_min(1e-12).log().sort().values
    upper = logs[(len(logs) - 1) // 2 :]
    if len(upper) < 2:
        return math.inf
    gaps = upper.diff()
    widest = int(gaps.argmax())
    if gaps[widest] < math.log(least_ratio):
        return math.inf
    return math.exp((upper[widest] + upper[widest + 1]).item() / 2)


@dataclass(frozen=True)
class MeanSigma:
    """Norm above mean + sigmas standard deviations of the image's patches (an alternative in the FNA authors' code, 7).

    Among n patches m equal outliers lie at most sqrt(n / m - 1) deviations above the mean, so 7 finds at most n / 50 of them: 5 of
    256, 3 of 196, none of 49. The default of 4 leaves room for n / 17.
    """

    sigmas: float = 4.0

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``."""
        norms, allowed = residual(site).norm(dim=-1), eligible(site, q)
        count = allowed.sum(1, keepdim=True).clamp_min(1)
        mean = norms.where(allowed, 0).sum(1, keepdim=True) / count
        deviation = ((norms - mean).where(allowed, 0).square().sum(1, keepdim=True) / count).sqrt()
        return (norms > mean + self.sigmas * deviation) & allowed


@dataclass(frozen=True)
class MassiveActivation:
    """Some channel above ``least`` in size and above ``ratio`` times the median size in the image (Sun et al.: 100 and 1,000)."""

    least: float = 100.0
    ratio: float = 1000.0

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``."""
        size = residual(site).abs()
        median = size.flatten(1).median(dim=1, keepdim=True).values
        peak = size.amax(-1)
        return (peak > self.least) & (peak > self.ratio * median) & eligible(site, q)


@dataclass(frozen=True)
class Channel:
    """One channel above ``threshold`` in size (exploratory in the FNA authors' code: 25, in block 12 of 24 of CLIP ViT-L).

    ``channel``: its number; None, ours: the one in which the image's patches have their largest value, which carries the
    massive activations wherever there are some.
    """

    threshold: float = 25.0
    channel: int | None = None

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``. Raises ValueError where there is no such channel."""
        size, allowed = residual(site).abs(), eligible(site, q)
        if self.channel is not None and not 0 <= self.channel < size.shape[-1]:
            raise ValueError(f"channel={self.channel}: this model has channels 0 to {size.shape[-1] - 1}.")
        peaks = size.masked_fill(~allowed[..., None], 0).amax(1)
        carrier = peaks.argmax(-1) if self.channel is None else torch.full_like(peaks[:, 0], self.channel, dtype=torch.long)
        return (size.gather(2, carrier[:, None, None].expand(-1, size.shape[1], 1))[..., 0] > self.threshold) & allowed


@dataclass(frozen=True)
class ClsProxy:
    """CLS gives the token more than ``factor`` times what it gives itself (FNA's online rule: 0.3, block 13 of 24).

    ``least`` and ``stands`` are ours, 0 and 0 is theirs. The token must also get ``least`` times an even share (1 / visible
    tokens): where CLS looks nowhere in particular the bare comparison flags everybody (196 of 196 patches at random weights). And
    its norm must be ``stands`` times that of the median patch: a CLS that looks at what matters is no sign of massive tokens.
    """

    factor: float = 0.3
    least: float = 4.0
    stands: float = 2.0

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``. Raises ValueError in a model without CLS."""
        given = cls_attention(q, k, site)
        share = self.least / visible(k, site)
        return (given > torch.maximum(self.factor * given[:, :1], share)) & eligible(site, q) & outgrown(site, q, self.stands)


def outgrown(site: Site, like: Tensor, times: float) -> Tensor:
    """bool ``[B, N]``: tokens whose norm is more than ``times`` that of the image's median patch; everybody for 0."""
    if times == 0:
        return torch.ones(like.shape[0], like.shape[-2], dtype=torch.bool, device=like.device)
    norms = residual(site).norm(dim=-1)
    median = norms.masked_fill(~eligible(site, like), float("nan")).nanmedian(1, keepdim=True).values
    return norms > times * median


def visible(k: Tensor, site: Site) -> Tensor:
    """How many keys each image shows, ``[B, 1]``, at least 1."""
    if site.keys is None:
        return k.new_full((k.shape[0], 1), k.shape[2], dtype=torch.float32)
    return site.keys.sum(1, keepdim=True).clamp_min(1).float()


@dataclass(frozen=True)
class Incoming:
    """Mean attention received above ``factor`` / visible tokens (an alternative in the FNA authors' code: 9).

    The CLS column is taken out and rows renormalised, then the diagonal goes. All rows are needed, a slab at a time.
    """

    factor: float = 9.0

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """bool ``[B, N]``."""
        return (incoming(q, k, site) > self.factor / visible(k, site)) & eligible(site, q)


def incoming(q: Tensor, k: Tensor, site: Site) -> Tensor:
    """Mean attention that each token receives from the others, CLS left out as a key, mean over heads -> ``[B, N]``."""
    total = torch.zeros(k.shape[0], k.shape[2], device=k.device, dtype=torch.promote_types(k.dtype, torch.float32))
    for rows, weights in attention_chunks(q, k, site):
        if site.tokens.prefix:
            weights = weights.index_fill(-1, torch.zeros(1, dtype=torch.long, device=k.device), 0)
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        total += weights.mean(1).scatter(2, rows.expand(k.shape[0], -1)[..., None], 0).sum(1)
    return total / q.shape[2]


RuleName = Literal["channel", "cls_proxy", "fixed_norm", "incoming", "log_gap", "massive_activation", "mean_sigma"]
RULES: dict[str, type] = {
    "channel": Channel,
    "cls_proxy": ClsProxy,
    "fixed_norm": FixedNorm,
    "incoming": Incoming,
    "log_gap": LogGap,
    "massive_activation": MassiveActivation,
    "mean_sigma": MeanSigma,
}


def make_rule(name: str, knob: float | None = None) -> Rule:
    """The rule of that name; ``knob`` sets its first field, None keeps the value of its source.

    Raises ValueError naming the rules that there are.
    """
    if name not in RULES:
        raise ValueError(f"rule={name}: no such rule; there is {', '.join(RULES)}.")
    cls = RULES[name]
    return cls() if knob is None else cls(**{fields(cls)[0].name: knob})
