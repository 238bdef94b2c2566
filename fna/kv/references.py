"""Reference queries of a prompt, and image entries that stand for all of them as those queries see it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fna.kv.contract import Kept, LayerState
from fna.kv.matching import fitted_bias, fitted_values, masses
from fna.kv.select import places, rest_and, take


@dataclass(frozen=True, eq=False)
class Image:
    """``logits`` float32 ``[B, G, R, N]`` of reference queries over all entries; ``among`` bool ``[B, G, 1, N]``: the image's;
    ``there`` ``[B, 1, R, 1]``: which references are some (a row may have fewer)."""

    logits: Tensor
    among: Tensor
    there: Tensor


def referred(state: LayerState, count: int) -> Image:
    """``count`` queries evenly spread over each row's prompt, its last among them, every query head of a group one reference.

    They look at the whole image, whatever came after them: what is matched is how a later query would see it.
    """
    there = state.asked >= 0
    held = there.sum(-1, keepdim=True)
    rank = (there.long().cumsum(-1) - 1).clamp_min(0)
    most = torch.minimum(held, torch.full_like(held, count))
    # The place p of h is taken where the count of references up to it goes up: the last always is.
    mask = there & (((rank + 1) * most) // held.clamp_min(1) > (rank * most) // held.clamp_min(1))
    index, valid = places(mask)
    q = state.q.gather(2, index[:, None, :, None].expand(-1, state.q.shape[1], -1, state.q.shape[3]))
    groups = state.k.shape[1]
    q = q.unflatten(1, (groups, -1)).flatten(2, 3).float()
    repeats = state.q.shape[1] // groups
    return Image(q @ state.k.float().mT * state.scale, state.image[:, :, None], valid.repeat(1, repeats)[:, None, :, None])


def stand_in(
    state: LayerState,
    image: Image | None,
    chosen: Tensor,
    *,
    bias: Literal["none", "constant", "fitted"],
    values: Tensor | Literal["fitted"],
    ridge: float,
) -> Kept:
    """All text, and the ``chosen`` image entries bool ``[B, G, N]`` with a bias and with values that stand for the image.

    ``bias``: none, log(N/m), or fitted to the mass that the references of ``image`` give. ``values`` ``[B, G, N, d]``, or fitted to
    the output that they get. Where everything is chosen all is as it was.
    """
    entries = state.entries
    if bool((chosen == state.image).all()):
        return take(entries, state.valid)
    held, left = state.image.sum(-1, keepdim=True), chosen.sum(-1, keepdim=True)
    start = (held / left.clamp_min(1)).clamp_min(1).log().expand(chosen.shape).float()
    biases = start
    if image is not None:
        mass = masses(image.logits, image.among) * image.there
        few = mass * chosen[:, :, None]
        if bias == "fitted":
            biases = fitted_bias(few, mass.sum(-1), start)
        if isinstance(values, str):
            weighed = few * biases.exp()[:, :, None]
            weighed = weighed / weighed.sum(-1, keepdim=True).clamp_min(1e-30)
            values = fitted_values(weighed, mass @ state.v.float(), state.v.float(), ridge).to(state.v.dtype)
    assert isinstance(values, Tensor)
    v = torch.where(chosen[..., None], values, state.v)
    added = None if bias == "none" else torch.where(chosen & (left < held), biases, 0.0)
    return take(replace(entries, v=v, bias=added), rest_and(state, chosen))
