"""Attention of a whole prompt through landmarks of its image: causal (ours), and as Fast Nyström Attention has it.

Axes as in `fna.kv.contract`; ``m`` landmarks, sorted by position. Text is exact in both: as keys, and its own rows.

Causal (`causal_rows`): an image token at t sees text before it, the image tokens behind the last landmark p_j <= t, and for all up
to p_j the landmarks p_1 .. p_j with values v~. With A the softmax of landmark queries over landmark keys up to themselves, lower
triangular, and u what they get from the image up to themselves, v~ solves A v~ = u from the top down: row a needs rows up to a
only, so no later token has a say in it. Each row is damped towards the landmark's own value: where landmarks see little of
themselves errors grow from row to row, and undamped the answers of a trained model break. (arXiv 2507.16018 has no causal form.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.kv.contract import LayerState
from fna.kv.select import SLAB, places
from fna.ops.nystrom import fast_nystrom


def causal_rows(state: LayerState, chosen: Tensor, ridge: float, biased: bool) -> Tensor:
    """The prompt's attention ``[B, H, N, d]`` through the landmarks ``chosen`` bool ``[B, G, N]``, the same for all heads.

    ``biased``: landmarks weigh as the n image tokens up to the last of them do, log(n / j) on the logits of each of j.
    """
    image, text = state.image[:, 0], state.valid[:, 0] & ~state.image[:, 0]
    out = torch.zeros_like(state.q)
    words, told = places(text)
    tiles, seen = places(image)
    marks, there = places(chosen[:, 0])
    place = torch.arange(image.shape[1], device=image.device)
    _put(out, words, told, _attended(state, rows(state.q, words), state.k, state.v, _earlier(words, place, state.valid[:, 0])))
    values = causal_values(state, marks, there, ridge).to(state.v.dtype)
    text_k, text_v, mark_k = rows(state.k, words), rows(state.v, words), rows(state.k, marks)
    image_k, image_v = rows(state.k, tiles), rows(state.v, tiles)
    # Of each image token, by its rank in the image: how many landmarks there are up to it, and the rank of the last of them.
    rank = torch.arange(tiles.shape[1], device=image.device)
    is_mark = chosen[:, 0].gather(1, tiles) & seen
    passed = is_mark.long().cumsum(1)
    last = torch.where(is_mark, rank, -1).cummax(1).values
    weight = ((last + 1) / passed.clamp_min(1)).clamp_min(1).log() * float(biased)
    for start in range(0, tiles.shape[1], SLAB):
        part = slice(start, min(start + SLAB, tiles.shape[1]))
        first = int(last[:, start].amin()) + 1
        window = slice(first, part.stop)
        near = (rank[window] > last[:, part, None]) & (rank[window] <= rank[part, None]) & seen[:, None, window]
        behind = there[:, None] & (torch.arange(marks.shape[1], device=image.device) < passed[:, part, None])
        visible = torch.cat([_earlier(tiles[:, part], words, told)[:, 0], behind, near], -1) | ~seen[:, part, None]
        added = torch.zeros(visible.shape, device=image.device)
        added[..., words.shape[1] : words.shape[1] + marks.shape[1]] = weight[:, part, None]
        mask = added.masked_fill(~visible, float("-inf"))[:, None]
        keys = torch.cat([text_k, mark_k, image_k[:, :, window]], 2)
        held = torch.cat([text_v, values, image_v[:, :, window]], 2)
        _put(out, tiles[:, part], seen[:, part], _attended(state, rows(state.q, tiles[:, part]), keys, held, mask))
    return out


def causal_values(state: LayerState, marks: Tensor, there: Tensor, ridge: float) -> Tensor:
    """v~ float32 ``[B, G, m, d]`` of landmarks at ``marks`` int64 ``[B, m]``, ascending, of which ``there`` count.

    The query heads of a key head share v~: row a is the least squares of their equations for it, given the rows before. ``ridge``
    is a share of 1 / a^2, which a row of even attention has for the square of its diagonal.
    """
    groups = state.k.shape[1]
    q = rows(state.q, marks).unflatten(1, (groups, -1)).float()  # [B, G, H / G, m, d]
    k, v = state.k.float(), rows(state.v, marks).float()
    order = torch.arange(marks.shape[1], device=marks.device)
    pairs = (order <= order[:, None]) & there[:, None]
    block = _softmax(q @ rows(k, marks).mT[:, :, None] * state.scale, pairs[:, None, None])
    place = torch.arange(k.shape[2], device=k.device)
    earlier = (place <= marks[..., None]) & state.image[:, 0, None]
    target = _softmax(q @ k.mT[:, :, None] * state.scale, earlier[:, None, None]) @ state.v.float()[:, :, None]
    diagonal = block.diagonal(dim1=-2, dim2=-1)[..., None]
    damping = (ridge * q.shape[2] / (order + 1.0).square())[:, None]
    counted = there[:, None, :, None]
    eye = torch.eye(marks.shape[1], device=marks.device)
    system = torch.where(counted, (diagonal * block).sum(2) + damping * eye, eye)
    right = ((diagonal * target).sum(2) + damping * v) * counted
    return torch.linalg.solve_triangular(system, right, upper=False)


def bidirectional_rows(state: LayerState, chosen: Tensor) -> Tensor:
    """The paper's form, ``[B, H, N, d]``: every token through all text and the ``chosen`` image tokens, whatever comes after it.

    Causality is lost, so only the last row's output is that of a language model.
    """
    valid = state.valid[:, 0]
    index, there = places(valid & (chosen[:, 0] | ~state.image[:, 0]))
    times = state.q.shape[1] // state.k.shape[1]
    k, v = state.k.repeat_interleave(times, 1), state.v.repeat_interleave(times, 1)
    keys = None if bool(valid.all()) else valid
    return fast_nystrom(state.q, k, v, index, scale=state.scale, valid=None if bool(there.all()) else there, keys=keys)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """x ``[B, H, N, d]`` at ``index`` ``[B, m]``."""
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _earlier(asked: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """Which columns ``places`` ``[B, n]`` or ``[n]`` an ``asked`` ``[B, Q]`` one sees of those ``counted``: ``[B, 1, Q, n]``."""
    keys = places if places.dim() == 2 else places[None]
    return ((keys[:, None] <= asked[..., None]) & counted[:, None])[:, None]


def _attended(state: LayerState, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Fused attention; ``mask`` bool, or float, as it is added."""
    mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=state.scale, enable_gqa=q.shape[1] != k.shape[1])


def _put(out: Tensor, index: Tensor, counted: Tensor, found: Tensor) -> None:
    """Write the rows ``found`` ``[B, H, n, d]`` that are ``counted`` to their places ``index`` ``[B, n]``."""
    row, entry = counted.nonzero(as_tuple=True)
    out[row, :, index[row, entry]] = found[row, :, entry]


def _softmax(logits: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the entries ``seen``; a row that sees none is 0."""
    shares = logits.masked_fill(~seen, float("-inf")).softmax(-1)
    return shares.masked_fill(~seen, 0).nan_to_num(0.0)
