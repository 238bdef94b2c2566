"""How a timm vision transformer makes one vector of its tokens: as asked, as the files say, or as its tensors show."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from fna.errors import UserError

NORMS = ("fc_norm", "use_fc_norm")  # what timm's classes call it that the last LayerNorm comes after pooling


def options(net: Any, names: Collection[str], asked: str | None) -> dict[str, Any]:
    """What ``net`` has to be built with to pool as ``asked``, else as the tensors ``names`` show; empty where it does.

    Tensors show where the last LayerNorm is, before pooling (``norm``) or after it (``fc_norm``, which timm has where it averages),
    and a pooling by attention (``attn_pool``); they do not show whether what ``norm`` gives is averaged.
    """
    own, own_after = getattr(net, "global_pool", None), not isinstance(getattr(net, "fc_norm", None), nn.Identity | None)
    after = "fc_norm.weight" in names and "norm.weight" not in names
    shown = "map" if "attn_pool.latent" in names and own != "map" else "avg" if after and not own_after else None
    pool = asked or shown
    if pool is None or (pool == own and after == own_after):
        return {}
    taken = inspect.signature(type(net).__init__).parameters
    return {"global_pool": pool} | {key: after for key in NORMS if key in taken}


def check(names: Collection[str], asked: str | None) -> None:
    """Raise `UserError` for a pooling that the tensors ``names`` of a network have not."""
    by_attention = "attn_pool.latent" in names
    if asked is None or by_attention == (asked == "map"):
        return
    why = (
        "the weights pool by attention (attn_pool): give map"
        if by_attention
        else "the weights have no attn_pool: give token or avg"
    )
    raise UserError(f"model.pool={asked}: {why}, or null.")


def usual_note(name: str, pool: str | None) -> list[str]:
    """Of networks that timm pools in another way than their authors, who evaluate DINOv3 by its class token."""
    if "dinov3" not in name or pool != "avg":
        return []
    return [f"{name} gives the mean of its patches, as timm has it; Meta's evaluation takes the class token: model.pool=token"]


def shown_note(path: str, found: Mapping[str, Any]) -> str:
    """That the tensors of a file say how its network pools."""
    sign = {"map": "a pooling by attention (attn_pool)"}
    what = sign.get(found["global_pool"], "its last LayerNorm as fc_norm, which comes after pooling")
    return f"{path}: holds {what}, so it is run with global_pool={found['global_pool']} (model.pool=NAME says another)"
