"""The library: swap a model's attention, call an attention on q, k, v, choose landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fna.configs import build_attention, instantiate, load_option
from fna.errors import UserError
from fna.ops.checks import check_site, check_tensors
from fna.ops.contract import Attention, Site, Tokens
from fna.ops.landmarks import sample_landmarks as sample_landmarks

if TYPE_CHECKING:
    from fna.surgery.swap import Swap


def swap(
    model: nn.Module,
    attn: str | Attention = "fna",
    *,
    layers: str | int | Sequence[int] = "last-half",
    landmarks: int | float | str = 64,
    sampler: str = "fps",
    mask: Any = None,
    reduce: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Swap:
    """Route the attention of chosen blocks of ``model`` through ``attn``; a handle that is also a context manager.

    ``model``: an open_clip model or its visual tower, a timm ViT, a Hugging Face CLIP, DINOv2 or SigLIP. ``attn``: a name of
    ``conf/attn`` or an attention of your own. ``layers``: "all", "last-half", "13-23" or ints (negative from the end).
    ``mask``: a name of ``conf/mask`` or a `fna.masking.strategy.Masking` of your own. ``options`` are keys of the method's YAML
    file; an attention of your own takes none. ``handle.restore()`` gives the model back bit for bit.

    A copy made inside the with block (``deepcopy``, ``torch.save`` of the whole model) is changed too, and stays so:
    ``fna.surgery.swap.current_swap(copy).restore()`` gives it back. So do graphs: ``torch.compile``, ``torch.export``,
    ``torch.jit.trace`` and ``torch.onnx.export`` inside the block hold the changed model, the last with plain operators only.

    Raises `UserError` for an unknown model, name, option or layer.
    """
    from fna.surgery.blocks import find_tower
    from fna.surgery.lookahead import swap_masked
    from fna.surgery.plan import parse_layers

    if reduce not in (None, "none"):
        raise UserError(f"reduce={reduce}: this version of fna.swap has no reduce yet; leave it out.")
    op = _op(attn, landmarks=landmarks, sampler=sampler, seed=seed, **options)
    depth = len(find_tower(model).blocks)
    return swap_masked(model, dict.fromkeys(parse_layers(layers, depth), op), _masking(mask))


def _op(attn: str | Attention, **options: Any) -> Attention:
    """The attention of that name, or ``attn`` itself, which has its options already: any but a default is refused."""
    if isinstance(attn, str):
        return build_attention(attn, **options)
    if not isinstance(attn, Attention) or isinstance(attn, type):
        raise UserError(f"attn={attn!r}: give a name of conf/attn, or an attention of your own, called on q, k, v and a site.")
    defaults = build_attention.__kwdefaults__ or {}
    given = [name for name, value in options.items() if name not in defaults or value != defaults[name]]
    if given:
        raise UserError(
            f"{type(attn).__name__} is made already: give it {', '.join(given)} yourself, or hand over a name of conf/attn."
        )
    return attn


def _masking(mask: Any) -> Any:
    """What ``mask=NAME`` means on the command line, uncalibrated; a strategy is one already."""
    from fna.masking.strategy import Masking
    from fna.surgery.registers import Registers

    if mask is None or isinstance(mask, Masking | Registers):
        return mask
    if not isinstance(mask, str):
        raise UserError(f"mask={mask!r}: give a name of conf/mask, a Masking or Registers.")
    return None if mask == "none" else instantiate(load_option("mask", mask))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn: str | Attention = "fna",
    *,
    landmarks: int | float | str = 64,
    sampler: str = "fps",
    scale: float | None = None,
    keys: Tensor | None = None,
    causal: bool = False,
    prefix: int = 1,
    grid: tuple[int, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """One attention on q, k, v ``[batch, heads, tokens, head_dim]``; the result has q's shape and dtype.

    ``scale`` defaults to ``head_dim ** -0.5``. ``keys`` bool ``[batch, tokens]``: which keys may be seen. ``prefix`` tokens at the
    front are kept as landmarks; ``grid`` is (rows, columns) of the others. A NaN in q, k or v comes out as NaN.

    Raises `UserError` for unknown names and for what does not fit together, and `Unsupported`, which is one, for what the method
    cannot honour.
    """
    check_tensors(q, k, v)
    check_site(k, scale=scale, keys=keys, causal=causal, prefix=prefix, grid=grid)
    op = _op(attn, landmarks=landmarks, sampler=sampler, seed=seed, **options)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return op(q, k, v, Site(scale=scale, keys=keys, causal=causal, tokens=Tokens(prefix=prefix, grid=grid)))
