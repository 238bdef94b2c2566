"""The way in for attention that is written out: softmax(s q k^T + b) v in a module's own forward, by whatever way to q, k and v.

That forward runs as it is, under a torch function mode. Where it multiplies two activations it gets a `Product` instead
(`fna.surgery.product`), which is never multiplied out where it meets nothing but a scale, a bias, a mask, softmax and v; then the
op is called, once for each such product. Talking heads, linear attention and the like do other things with it: they are computed as
ever, and since they never call the op, refused in a line that says what they did.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fna.errors import UserError
from fna.ops.bias import Decomposed
from fna.surgery.fused import relative
from fna.surgery.outer import SUMS, added
from fna.surgery.product import Logits, Product, Watch, multiplied
from fna.surgery.reads import PRODUCTS
from fna.surgery.seams import Seam, mask_fields


class HandSeam(Seam):
    """Whatever module: its own forward, with the op in place of what it multiplies out."""

    @torch.compiler.disable
    def changed(self, *args: Any, **kwargs: Any) -> Any:
        x = next((arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)), None)
        name = f"block {self.layer} ({type(self.module).__name__})"
        watch = Watch(partial(self.answer, x), name, [])
        frame = self.run.frame
        frame.seen = False
        try:
            with _Watching(watch):
                out = type(self.module).forward(self.module, *args, **kwargs)
        finally:
            watch.over = True
        if not frame.seen:
            done = f" but goes to {watch.strange[0]}" if watch.strange else ""
            raise UserError(f"{name}: its attention is not softmax(q k^T) v{done}, as with talking heads; leave it out of layers=.")
        if watch.read:
            self.run.tell(
                "weights",
                f"{name}: {watch.read}() reads attention weights, which fna does not make: it was given those of exact attention, "
                "multiplied out for it. Take away the hook or the line that reads them, or leave the block out of layers=.",
            )
        return out

    def answer(self, x: Tensor | None, logits: Logits, v: Tensor) -> Tensor:
        """The op on what was gathered: ``[*lead, Nq, dv]``. ``x``: what the module was given."""
        lead = logits.q.shape[:-2]
        batch = 1 if x is None else x.shape[0]
        if x is not None and x.dim() == 3 and _across(logits.q, x):
            name = type(self.module).__name__
            raise UserError(f"block {self.layer} ({name}) attends from channel to channel; fna changes attention of tokens alone.")
        q, k, v = (_four(part, lead, batch) for part in (logits.q, logits.k, v))
        if logits.down is not None and logits.across is not None and logits.apart:
            fields: dict[str, Any] = {"dense": Decomposed(*(_four(part, lead, batch) for part in (logits.down, logits.across)))}
        else:
            added = logits.added()
            fields = relative(mask_fields(None if added is None else _four(added, lead, batch), q), q, k)
        out = self.attend(q, k, v, scale=logits.scale, dropout=logits.dropout, **fields)
        return out.reshape(*lead, *out.shape[-2:]).to(logits.dtype)


class _Watching(TorchFunctionMode):
    """While it is entered, products of activations are not multiplied out, and positions by rows and by columns not added up;
    inside an answer it is not in force."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        plain = name in PRODUCTS and len(args) == 2 and not any(isinstance(arg, Product) for arg in args)
        made = multiplied(args[0], args[1], self.watch) if plain else added(*args) if name in SUMS and len(args) == 2 else None
        return func(*args, **(kwargs or {})) if made is None else made


def _across(q: Tensor, x: Tensor) -> bool:
    """Whether what attend to each other are the channels of ``x`` ``[B, N, D]``: q is ``[B, heads, D / heads, N]``."""
    tokens, width = x.shape[1:]
    return q.dim() == 4 and q.shape[-1] == tokens != q.shape[-2] and q.shape[1] * q.shape[2] == width


def _four(x: Tensor, lead: torch.Size, batch: int) -> Tensor:
    """``[B, heads, a, b]`` of ``x``, which broadcasts to ``[*lead, a, b]``.

    Of one axis in front, ``[B * heads]``, the images of the ``batch`` are told from heads; of more than two, those of windows, each
    becomes an image of one head.
    """
    if len(lead) == 2:
        return x
    if len(lead) == 1:
        return x[:, None] if lead[0] % batch or len(x) == 1 < lead[0] else x.unflatten(0, (batch, -1))
    if len(lead) > 2 and prod(lead[2:]) == 1:
        return x.reshape(*x.shape[:2], *x.shape[-2:])
    return x.expand(*lead, *x.shape[-2:]).reshape(-1, 1, *x.shape[-2:])
