"""The way in for a class of somebody's that inherits `nn.MultiheadAttention`: its own forward runs, what it inherits is changed."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fna.errors import UserError
from fna.surgery.seams import MultiheadSeam
from fna.surgery.stacks import RECIPE


class InheritedSeam(MultiheadSeam):
    """Its own forward, with the op in place of what ``super().forward`` comes to: one call on the module's own weights."""

    def changed(self, *args: Any, **kwargs: Any) -> Any:
        with _Instead(self):
            return type(self.module).forward(self.module, *args, **kwargs)

    def instead(self, query: Tensor, key: Tensor, value: Tensor, **given: Any) -> tuple[Tensor, None]:
        """What it gets for its call on ``[N, B, D]`` or ``[N, D]``, in the same layout; ``given``: the masks and the rest."""
        if query is not key or key is not value:
            raise UserError(
                f"block {self.layer}: {type(self.module).__name__} calls torch's attention on three tensors, as cross-attention "
                f"does; leave it out of layers=, or use {RECIPE}."
            )
        turned = self.module.batch_first and query.dim() == 3
        x = query.transpose(0, 1) if turned else query
        taken = {name: given[name] for name in ("key_padding_mask", "need_weights", "attn_mask", "is_causal") if name in given}
        out, _ = super().changed(x, x, x, **taken)
        return (out.transpose(0, 1) if turned else out), None


class _Instead(TorchFunctionMode):
    """While it is entered, the module's call of torch's attention goes to the seam; another module's does not."""

    def __init__(self, seam: InheritedSeam) -> None:
        super().__init__()
        self.seam = seam

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and args[5] is self.seam.module.in_proj_weight:
            return self.seam.instead(*args[:3], **kwargs)
        return func(*args, **kwargs)
