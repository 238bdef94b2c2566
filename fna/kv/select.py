"""What most policies share: budgets, attention weights of a few queries, and entries chosen by a mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fna.errors import UserError
from fna.kv.contract import Kept, LayerState
from fna.ops.seeded import uniform

SLAB = 256  # query rows whose weights are in memory at a time


def check_block(key: str, block: int | None, depth: int) -> None:
    """Raise `UserError` for a block that a decoder of ``depth`` blocks lacks, before which nothing would ever be dropped."""
    if block is not None and block >= depth:
        raise UserError(f"{key}={block}: this decoder has blocks 0-{depth - 1}; give one from 1 to {depth - 1}.")


def counts(budget: float, available: Tensor) -> Tensor:
    """How many of ``available`` int64 ``[...]`` entries a budget means, for each row: at least one where there is any.

    Raises `UserError` for a count that no row can give.
    """
    if budget <= 1:
        share = torch.floor(available * budget + 0.5).long()
        return torch.minimum(share.clamp_min(1), available)
    most = int(available.max()) if available.numel() else 0
    if most and budget > most:
        raise UserError(f"kv.budget={int(budget)}: there are only {most} tokens to choose from; give at most that, or a share.")
    return available.clamp(max=int(budget))


def places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where ``mask`` bool ``[..., N]`` holds, ascending: int64 ``[..., n]``, n that of the fullest row, and which entries count."""
    held = mask.sum(-1)
    most = int(held.max()) if held.numel() else 0
    index = torch.sort(mask.to(torch.int8), dim=-1, descending=True, stable=True).indices[..., :most]
    return index, torch.arange(most, device=mask.device) < held[..., None]


def best(scores: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The ``count`` ``[...]`` best of the entries ``among`` bool ``[..., N]`` by ``scores`` ``[..., N]``, the earlier of equals."""
    scores = scores.masked_fill(~among, float("-inf"))
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order))
    return among & (rank < count[..., None])


def rest_and(state: LayerState, chosen: Tensor) -> Tensor:
    """Of the entries that may be compressed the ``chosen``, and all others: bool ``[B, G, N]``."""
    return state.valid & (chosen | ~state.image)


def lay_out(entries: Kept, index: Tensor, valid: Tensor) -> Kept:
    """The entries at ``index`` int64 ``[B, G, n]``, of which ``valid`` count."""
    if entries.valid is not None:
        valid = valid & entries.valid.gather(2, index)
    return Kept(
        picked(entries.k, index),
        picked(entries.v, index),
        entries.positions.gather(2, index),
        None if bool(valid.all()) else valid,
        None if entries.bias is None else entries.bias.gather(2, index),
    )


def picked(x: Tensor, index: Tensor) -> Tensor:
    """x ``[B, G, N, d]`` at ``index`` int64 ``[B, G, n]``: whole rows are copied, six times as fast on a CPU as by ``gather``."""
    batch, groups, count, width = x.shape
    start = count * torch.arange(batch * groups, device=x.device).view(batch, groups, 1)
    return x.reshape(-1, width).index_select(0, (start + index).flatten()).view(batch, groups, -1, width)


def take(entries: Kept, mask: Tensor) -> Kept:
    """The entries where ``mask`` bool ``[B, G, N]`` holds, in the order that they lie in."""
    return entries if bool(mask.all()) else lay_out(entries, *places(mask))


def ranks(mask: Tensor) -> Tensor:
    """Of each entry where ``mask`` bool ``[..., N]`` holds how many such come before it; of others anything."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def drawn(mask: Tensor, *key: object) -> Tensor:
    """Random numbers ``[B, N]`` by ``key``, by how many entries of the row are in ``mask``, and by the place among them."""
    held = mask.sum(-1)
    out = torch.zeros(mask.shape, dtype=torch.float64)
    for count in held.unique().tolist():
        row = uniform((max(count, 1),), *key, count)
        out = torch.where((held == count).cpu()[:, None], row[ranks(mask).cpu().clamp(max=max(count, 1) - 1)], out)
    return out.to(mask.device)


def last_queries(state: LayerState, count: int) -> tuple[Tensor, Tensor]:
    """The last ``count`` queries of each row that are no padding, q ``[B, H, w, d]`` and their columns ``[B, w]``, ascending.

    A row with fewer than the longest has -1 as further columns.
    """
    there = state.asked >= 0
    place = there.long().cumsum(1)
    index, valid = places(there & (place > place[:, -1:] - count))
    index = torch.where(valid, index, index[:, :1])
    q = state.q.gather(2, index[:, None, :, None].expand(-1, state.q.shape[1], -1, state.q.shape[3]))
    columns = state.asked.gather(1, index)
    return q, torch.where(valid, columns, -1)


def weights(state: LayerState, q: Tensor, columns: Tensor) -> Tensor:
    """Softmax weights over all entries of ``q`` ``[B, H, w, d]`` at ``columns`` ``[B, w]``: float32 ``[B, G, H / G, w, N]``.

    Causal, parked entries apart. A column of -1 is no query: its weights are zero.
    """
    entries = state.entries
    groups = entries.k.shape[1]
    grouped = q.unflatten(1, (groups, -1)).float()
    logits = grouped @ entries.k.float().mT[:, :, None] * state.scale
    if entries.bias is not None:
        logits = logits + entries.bias[:, :, None, None].float()
    seen = state.valid[:, :, None] & (entries.positions[:, :, None] <= columns[:, None, :, None])
    seen[..., : entries.parked] = False
    logits = logits.masked_fill(~seen[:, :, None], float("-inf"))
    blind = ~seen.any(-1, keepdim=True)[:, :, None]
    return logits.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)


def all_weights(state: LayerState) -> Iterator[Tensor]:
    """`weights` of every query that is no padding, a slab at a time."""
    for q, part in zip(state.q.split(SLAB, 2), state.asked.split(SLAB, 1), strict=True):
        yield weights(state, q, part)


def total_budget(budget: float, state: LayerState) -> Tensor:
    """How many entries of a layer stay when ``budget`` is kept of those that may be compressed, and all others: ``[B, G]``."""
    valid, image = state.valid.sum(-1), state.image.sum(-1)
    return valid - image + counts(budget, image)


def whole_prompt(policy: object, state: LayerState) -> None:
    """Raise `UserError` where the prompt came in chunks, so that only the last one's queries are at hand."""
    if state.q.shape[2] < max(state.k.shape[2], state.prompt.valid.shape[1]):
        raise UserError(f"kv: {type(policy).__name__} needs the queries of the whole prompt; leave out prefill_chunk_size.")
