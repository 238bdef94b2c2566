"""The way in for any module that calls ``F.scaled_dot_product_attention``, and for one that its owner describes in a function.

The module's own forward runs as it is, with its norms, gates and positions; only the call of the fused kernel is taken away from it
and handed to the op. So neither the class nor its arguments need be known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fna.errors import UserError
from fna.ops.bias import Table
from fna.ops.contract import Attention
from fna.surgery.forward import Forward
from fna.surgery.outer import SUMS, added, decomposed
from fna.surgery.seams import Seam, mask_fields

LOWEST = -1e4  # below it an addition to a logit hides a key


class FusedSeam(Seam):
    """Whatever module: its own forward, with the op in place of the fused kernel."""

    def changed(self, *args: Any, **kwargs: Any) -> Any:
        with _Instead(self):
            return type(self.module).forward(self.module, *args, **kwargs)

    def instead(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """What the module gets for its call of the kernel, ``[..., N, d]``. Windows become images; what has no heads has one."""
        if query.shape[-2] != key.shape[-2]:
            raise UserError(
                f"block {self.layer} ({type(self.module).__name__}): {query.shape[-2]} queries and {key.shape[-2]} keys; "
                "fna changes self-attention over whole sequences; leave this block out of layers=."
            )
        if query.dim() != 4 and attn_mask is not None and attn_mask.dim() > 2:
            raise UserError(f"block {self.layer} masks an attention of {query.dim()} axes, which fna cannot read; leave it out.")
        q, k, v = (_four(part) for part in (query, key, value))
        fields: dict[str, Any] = {}
        if attn_mask is not None and (positions := decomposed(attn_mask)) is not None:
            fields["dense"] = positions
        elif attn_mask is not None:  # it broadcasts, heads and images too
            fields = relative(mask_fields(attn_mask[(None,) * (4 - attn_mask.dim())], q), q, k)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        out = self.attend(q, k, v, scale=scale, dropout=dropout_p, causal=is_causal, **fields)
        return out if query.dim() == 4 else out.view(*query.shape[:-1], out.shape[-1])


class OwnSeam(Seam):
    """A module whose owner says where its q, k and v are: ``way(module, attend, *args, **kwargs)`` stands in for its forward.

    ``attend(q, k, v)``, each ``[B, heads, N, d]``, gives ``[B, heads, N, d]``; it also takes ``scale``, ``mask`` and ``causal``.
    """

    def __init__(self, run: Forward, layer: int, op: Attention, module: nn.Module, way: Callable[..., Any]) -> None:
        super().__init__(run, layer, op, module)
        self.way = way

    def changed(self, *args: Any, **kwargs: Any) -> Any:
        return self.way(self.module, self.called, *args, **kwargs)

    def called(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """The op, for who does not know of sites."""
        if not q.dim() == k.dim() == v.dim() == 4:
            raise UserError(f"block {self.layer}: give q, k and v as [batch, heads, tokens, head_dim]; got {list(q.shape)}.")
        if q.shape[-2] != k.shape[-2]:
            raise UserError(f"block {self.layer}: {q.shape[-2]} queries and {k.shape[-2]} keys; fna changes self-attention alone.")
        fields = relative(mask_fields(mask, q), q, k)
        return self.attend(q, k, v, scale=q.shape[-1] ** -0.5 if scale is None else scale, causal=causal, **fields)


def relative(fields: dict[str, Any], q: Tensor, k: Tensor) -> dict[str, Any]:
    """Site fields in which an additive mask that hides nothing is a bias, which more methods take than a mask.

    Looking at it would break a graph that is being traced: there it stays a mask.
    """
    dense = fields.get("dense")
    if dense is None or torch.compiler.is_compiling() or torch.jit.is_tracing() or not bool(dense.detach().amin() > LOWEST):
        return fields
    return {**fields, "dense": Table(dense.expand(*dense.shape[:2], q.shape[2], k.shape[2]))}


class _Instead(TorchFunctionMode):
    """While it is entered, calls of the fused kernel go to the seam, and positions by rows and by columns are not added up; inside
    an answer it is not in force."""

    def __init__(self, seam: FusedSeam) -> None:
        super().__init__()
        self.seam = seam

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._nn.scaled_dot_product_attention:  # whatever somebody has put round it in F
            return self.seam.instead(*args, **(kwargs or {}))
        eager = not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        if eager and getattr(func, "__name__", "") in SUMS and len(args) == 2 and (made := added(*args)) is not None:
            return made
        return func(*args, **(kwargs or {}))


def _four(x: Tensor) -> Tensor:
    """``[B, N, d]`` with one head; ``[B, heads, windows, N, d]`` with a window an image, ``[B * heads * windows, 1, N, d]``."""
    return x if x.dim() == 4 else x.flatten(0, -3)[:, None]
