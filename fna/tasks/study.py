"""The detailed study of a few images: everything that the figures about massive and artifact tokens show, as plain numbers.

Tokens are found once on the untouched model; every later pass is then asked by category (CLS, massive, artifact, normal). Each
section names its source in FNA (arXiv 2507.16018), as far as its authors' code shows it (facts §1.3, §1.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fna.masking.lowrank import LowRank
from fna.masking.masked import Masked, Mode, Pattern
from fna.masking.rules import RULES, Rule, make_rule
from fna.masking.sinks import NAMES, categories
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.ops.contract import Attention, Site
from fna.ops.exact import Exact
from fna.ops.rows import attention_chunks
from fna.surgery.blocks import Tower, find_tower
from fna.surgery.lookahead import swap_masked
from fna.surgery.probe import Call, Records, recording
from fna.tasks.base import Progress
from fna.tasks.calibration import run_images

BATCH = 4
MODES: tuple[tuple[Mode, Pattern], ...] = (("mask", "type1"), ("sink", "type1"), ("sink", "type2"))
STEPS = (0, 1, 2, 4, 8, 16)  # how many sinks are taken away


@dataclass(frozen=True, eq=False)
class Given:
    """A rule that flags what it is told to, ``chosen`` bool ``[B, N]``."""

    chosen: Tensor

    def __call__(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        return self.chosen


def passes(ranks: tuple[int, ...]) -> int:
    """How many times `study` runs all images, as its ``progress`` counts them."""
    return 4 + len(MODES) * len(STEPS) + 2 * len(ranks)


def study(
    model: Model, images: Tensor, seek: Masking, ranks: tuple[int, ...], progress: Progress = lambda n: None
) -> dict[str, Any]:
    """All sections for ``images`` ``[n, 3, h, w]``; block numbers are positions in the lists."""
    depth = model.depth
    first, detect = seek.window(depth)
    seen = record(model, images, streams=("entering", "attended", "leaving"), calls=judges(seek, detect), seek=seek)
    progress(1)
    kind = categories(seen["massive"], seen["sinks"], model.tokens)
    tower = find_tower(model.tower)
    pairs = record_by(model, images, kind, lambda part: {"mass": mass(part), "suppression": suppression(part, tower)})
    progress(1)
    counts = torch.stack([(kind == number).sum(1) for number in range(len(NAMES))], 1).float().mean(0)
    return {
        "names": list(NAMES),
        "first": first,
        "detect": detect,
        "images": len(images),
        "grid": list(model.tokens.grid or ()),
        "counts": dict(zip(NAMES, counts.tolist(), strict=True)),
        "norms": {place: by_category(seen[place], kind) for place in ("entering", "attended", "leaving")},
        "where": {name: _where(kind == number, model) for number, name in enumerate(NAMES[1:3], start=1)},
        "overlap": overlap({name: seen[name][:, detect] for name in RULES if name in seen} | {"sink set": seen["sinks"]}),
        "mass": averaged(pairs["mass"]),
        "suppression": averaged(pairs["suppression"].mean(2)),
        "growth": growth(model, images, kind, first, progress),
        "iterative": iterative(model, images, seen["order"], seek, progress),
        "ranks": rank_curves(model, images, seek, ranks, progress),
    }


def record(model: Model, images: Tensor, **what: Any) -> Records:
    """`recording` over all images, a few at a time: name -> ``[n, ...]``."""
    parts: list[Records] = []
    with torch.inference_mode(), recording(model.tower, parts.append, **what):
        for batch in images.split(BATCH):
            run_images(model)(batch)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def record_by(model: Model, images: Tensor, kind: Tensor, calls: Any) -> Records:
    """`record` where the calls need the categories ``[n, N]`` of the very images that run."""
    parts = []
    for batch, part in zip(images.split(BATCH), kind.split(BATCH), strict=True):
        parts.append(record(model, batch, calls=calls(part)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def judges(seek: Masking, detect: int) -> dict[str, Call]:
    """Every rule with its source's knob, judged in the block of detection only (log_gap where it was calibrated)."""
    rules: dict[str, Rule] = {name: make_rule(name) for name in RULES if name != "log_gap"}
    if isinstance(seek.rule, str):
        rules[seek.rule] = seek.judge
    return {name: judge_at(rule, detect) for name, rule in rules.items()}


def judge_at(rule: Rule, detect: int) -> Call:
    """What ``rule`` flags in block ``detect``, bool ``[B, N]``; nothing elsewhere."""

    def call(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        here = site.layer == detect
        return rule(q, k, site) if here else torch.zeros(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)

    return call


def by_category(values: Tensor, kind: Tensor) -> dict[str, list[float | None]]:
    """Means of ``[n, blocks, N]`` over the tokens of each category: name -> one number a block, None without such tokens."""
    found = {}
    for number, name in enumerate(NAMES):
        own = (kind == number)[:, None]
        total = int(own.sum())
        sums = (values * own).sum((0, 2))
        found[name] = (sums / total).tolist() if total else [None] * values.shape[1]
    return found


def _where(chosen: Tensor, model: Model) -> list[float]:
    """Share of images in which each patch is chosen, row by row of the grid."""
    prefix = model.tokens.prefix
    return chosen[:, prefix : chosen.shape[1] - model.tokens.suffix].float().mean(0).tolist()


def overlap(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many tokens each rule finds an image, and the Jaccard index of every two (None where both find nothing)."""
    names = list(found)
    sets = [found[name].bool() for name in names]
    unions = [[int((a | b).sum()) for b in sets] for a in sets]
    both = [[int((a & b).sum()) for b in sets] for a in sets]
    index = [[n / m if m else None for n, m in zip(row, under, strict=True)] for row, under in zip(both, unions, strict=True)]
    return {"rules": names, "per_image": [float(chosen.sum(1).float().mean()) for chosen in sets], "jaccard": index}


def _indicator(kind: Tensor) -> Tensor:
    """float ``[B, categories, N]``: 1 / size of the category for its tokens, so that a product with it is a mean."""
    own = torch.stack([kind == number for number in range(len(NAMES))], 1).float()
    return own / own.sum(-1, keepdim=True).clamp_min(1)


def mass(kind: Tensor) -> Call:
    """Attention of a query of one category to all keys of another, mean over heads and queries: ``[B, 4, 4]``; NaN for none."""
    mean, own = _indicator(kind), torch.stack([kind == number for number in range(len(NAMES))], 2).float()

    def call(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        parts = [mean[:, :, rows] @ (weights.mean(1).float() @ own) for rows, weights in attention_chunks(q, k, site)]
        given = torch.stack(parts).sum(0)
        return given.masked_fill(~_present(kind)[:, :, None], float("nan"))

    return call


def suppression(kind: Tensor, tower: Tower) -> Call:
    """<x_i / |x_i|, W_O^h v_j^h>, averaged over i and j of each category: ``[B, H, 4, 4]``; negative: j suppresses i.

    The average over pairs is the product of the averages, so nothing of size N x N is made. A layer scale counts with W_O.
    """
    mean = _indicator(kind)

    def call(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        assert site.hidden is not None
        unit = nn.functional.normalize(site.hidden.float(), dim=-1)
        out = output_weight(tower, site.layer).float().unflatten(1, (v.shape[1], v.shape[3]))
        written = torch.einsum("bchd,ehd->bche", torch.einsum("bcn,bhnd->bchd", mean, v.float()), out)
        pairs = torch.einsum("bae,bche->bhac", mean @ unit, written)
        return _blank(pairs.transpose(0, 1), kind).transpose(0, 1)

    return call


def _blank(pairs: Tensor, kind: Tensor) -> Tensor:
    """``[..., B, 4, 4]`` with NaN where one of the two categories has no token."""
    there = _present(kind)
    return pairs.masked_fill(~(there[:, :, None] & there[:, None]), float("nan"))


def _present(kind: Tensor) -> Tensor:
    """Which categories each image has, bool ``[B, 4]``."""
    return torch.stack([(kind == number).any(1) for number in range(len(NAMES))], 1)


def output_linear(tower: Tower, layer: int) -> nn.Linear:
    """The output projection of a block's attention: the last linear layer of its module."""
    attention = tower.specs[layer].attention_of(tower.blocks[layer])
    return [part for part in attention.modules() if isinstance(part, nn.Linear)][-1]


def output_weight(tower: Tower, layer: int) -> Tensor:
    """The weight of the output projection ``[D, H * d]``, times a layer scale."""
    block, spec = tower.blocks[layer], tower.specs[layer]
    weight = output_linear(tower, layer).weight
    scale = getattr(block, spec.scale1 or "", None)
    gamma = next(iter(scale.parameters()), None) if isinstance(scale, nn.Module) else scale
    return weight if not isinstance(gamma, Tensor) else weight * gamma[:, None]


def averaged(pairs: Tensor) -> list[Any]:
    """Mean over the images that have both categories, of ``[n, blocks, 4, 4]``; None where none has."""
    mean = pairs.nanmean(0)
    return [[[None if value != value else value for value in row] for row in block] for block in mean.tolist()]


def growth(model: Model, images: Tensor, kind: Tensor, start: int, progress: Progress = lambda n: None) -> dict[str, Any]:
    """Norms by category with no attention from block ``start`` on: the MLPs do the growing (§1.4).

    "without": of the attention only the bias of its output projection is left; "without_bias": not even that.
    """
    off: dict[int, Attention] = {
        layer: Masked(Exact(), make_rule("fixed_norm"), pattern="all") for layer in range(start, model.depth)
    }
    without = record(model, images, streams=("leaving",), plan=off)["leaving"]
    progress(1)
    with _no_output_bias(find_tower(model.tower), off):
        bare = record(model, images, streams=("leaving",), plan=off)["leaving"]
    progress(1)
    return {"start": start, "without": by_category(without, kind), "without_bias": by_category(bare, kind)}


@contextmanager
def _no_output_bias(tower: Tower, layers: Iterable[int]) -> Iterator[None]:
    """The output projections of these blocks' attention without their bias; given back bit for bit."""
    biases = [bias for layer in layers if (bias := output_linear(tower, layer).bias) is not None]
    kept = [bias.detach().clone() for bias in biases]
    try:
        with torch.no_grad():
            for bias in biases:
                bias.zero_()
        yield
    finally:
        with torch.no_grad():
            for bias, value in zip(biases, kept, strict=True):
                bias.copy_(value)


def iterative(model: Model, images: Tensor, order: Tensor, seek: Masking, progress: Progress = lambda n: None) -> list[Any]:
    """The first r sinks taken away from block ``first`` on, by mask and by sink, type I and II: norms and attention after that.

    For each r: the mean norm after the window and the CLS attention in the block of detection, of the first eight ranks.
    """
    first, detect = seek.window(model.depth)
    curves = []
    for mode, pattern in MODES:
        for place, step in enumerate(STEPS):
            if step and not bool((order[:, min(step, order.shape[1]) - 1] >= 0).any()):
                progress(len(STEPS) - place)
                break
            norms, given = _without_first(model, images, order, step, range(first, detect + 1), mode, pattern)
            curves.append({"mode": mode, "pattern": pattern, "removed": step, "norms": norms, "cls": given})
            progress(1)
    return curves


def _without_first(
    model: Model, images: Tensor, order: Tensor, step: int, blocks: range, mode: Mode, pattern: Pattern
) -> tuple[list[float | None], list[float | None]]:
    found: list[Records] = []
    for batch, ranked in zip(images.split(BATCH), order.split(BATCH), strict=True):
        chosen = torch.zeros(len(batch), model.token_count, dtype=torch.bool, device=batch.device)
        gone = ranked[:, :step]
        chosen.scatter_(1, gone.clamp_min(0), gone >= 0)
        plan = {layer: Masked(Exact(), Given(chosen), mode, pattern) for layer in blocks}
        found.append(record(model, batch, streams=("leaving",), calls=("cls_gives",), plan=plan))
    norms = torch.cat([part["leaving"] for part in found])[:, blocks[-1]]
    given = torch.cat([part["cls_gives"] for part in found])[:, blocks[-1]]
    return _of_ranks(norms, order), _of_ranks(given, order)


def _of_ranks(values: Tensor, order: Tensor, ranks: int = 8) -> list[float | None]:
    """Mean over images of ``values`` ``[n, N]`` at the token of each rank ``order`` ``[n, cap]``; None where no image has it."""
    means: list[float | None] = []
    for rank in range(min(ranks, order.shape[1])):
        there = order[:, rank] >= 0
        means.append(float(values[there].gather(1, order[there, rank, None]).mean()) if bool(there.any()) else None)
    return means


def rank_curves(
    model: Model, images: Tensor, seek: Masking, ranks: tuple[int, ...], progress: Progress = lambda n: None
) -> list[dict[str, Any]]:
    """Against exact attention: pieces of rank r after the block of detection, pieces whole and by category.

    "error": relative error of the outputs. Of a classifier "agreement", images with the same class first, in percent; of an
    embedding "cosine" to exact. Accuracy over r is a sweep: ``experiment=low_rank``.
    """
    detect, found = seek.window(model.depth)[1], replace(seek, tokens="both", blocks="none")
    run = model.classify or run_images(model)
    with torch.inference_mode():
        exact = torch.cat([run(batch) for batch in images.split(BATCH)]).float()
    curves = []
    for partition in (False, True):
        for rank in ranks:
            plan = dict.fromkeys(range(detect + 1, model.depth), LowRank(rank, partition)) or {detect: LowRank(rank)}
            outputs: list[Tensor] = []
            with torch.inference_mode(), swap_masked(model.tower, plan, found):
                outputs += [run(batch).float() for batch in images.split(BATCH)]
            cut = torch.cat(outputs)
            error = ((cut - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-12)).mean()
            near = _same_class(cut, exact) if model.classify else _cosine(cut, exact)
            curves.append({"partition": partition, "rank": rank, "error": float(error)} | near)
            progress(1)
    return curves


def _same_class(logits: Tensor, exact: Tensor) -> dict[str, float]:
    return {"agreement": 100 * float((logits.argmax(-1) == exact.argmax(-1)).float().mean())}


def _cosine(embedding: Tensor, exact: Tensor) -> dict[str, float]:
    return {"cosine": float(nn.functional.cosine_similarity(embedding, exact, dim=-1).mean())}
