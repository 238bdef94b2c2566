"""What `fna.attention` holds its arguments against before any attention sees them: one line each, and no look at the numbers."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from fna.ops.contract import BadInput


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise `BadInput` unless q ``[B, H, Nq, d]`` and k, v ``[B, H, Nk, d]`` agree in all but Nq; a batch of 0 is no fault."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or x.dim() != 4 or x.layout != torch.strided or x.is_nested:
            raise BadInput(f"{name} must be a plain tensor [batch, heads, tokens, head_dim]; got {_told(x)}.")
        if not x.is_floating_point():
            raise BadInput(f"{name} holds {x.dtype}: attention needs floating-point numbers; call {name}.float() first.")
        if 0 in x.shape[1:]:
            raise BadInput(f"{name} is {list(x.shape)}: there must be at least one head, one token and one number in each.")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype or x.device != q.device:
            raise BadInput(
                f"q is {q.dtype} on {q.device} and {name} {x.dtype} on {x.device}: bring them together with {name}.to(q)."
            )
        for axis, what in ((0, "images in the batch"), (1, "heads"), (3, "numbers in a head")):
            if x.shape[axis] != q.shape[axis]:
                hint = "; repeat grouped keys and values with repeat_interleave" if axis == 1 else ""
                raise BadInput(f"q is {list(q.shape)} and {name} {list(x.shape)}: both need as many {what}{hint}.")
    if k.shape[2] != v.shape[2]:
        raise BadInput(f"there are {k.shape[2]} keys and {v.shape[2]} values: give a value for each key.")


def check_site(
    k: Tensor, *, scale: float | None, keys: Tensor | None, causal: bool, prefix: int, grid: tuple[int, int] | None
) -> None:
    """Raise `BadInput` for fields of a site that do not fit keys ``[B, H, Nk, d]``."""
    batch, tokens = k.shape[0], k.shape[2]
    if (scale is not None and not (isinstance(scale, Real) and math.isfinite(scale))) or isinstance(scale, bool):
        raise BadInput(f"scale={_told(scale)}: give a finite number, or None for head_dim ** -0.5.")
    if keys is not None and (not isinstance(keys, Tensor) or keys.dtype != torch.bool or keys.shape != (batch, tokens)):
        raise BadInput(f"keys must be bool [{batch}, {tokens}], True where a key may be seen; got {_told(keys)}.")
    if keys is not None and keys.device != k.device:
        raise BadInput(f"keys are on {keys.device} and k on {k.device}: move them with keys.to(k.device).")
    if not isinstance(causal, bool):
        raise BadInput(f"causal={_told(causal)}: give True or False.")
    if not _counts(prefix) or prefix > tokens:
        raise BadInput(f"prefix={_told(prefix)}: there are {tokens} tokens; say how many of them, at the front, are not patches.")
    if grid is not None:
        check_grid(grid, tokens - prefix, exactly=True)


def check_grid(grid: object, tokens: int, *, exactly: bool = False) -> None:
    """Raise `BadInput` unless ``grid`` is (rows, columns) of at most, or ``exactly``, so many tokens."""
    if not (isinstance(grid, tuple | list) and len(grid) == 2 and all(_counts(side) and side for side in grid)):
        raise BadInput(f"grid={_told(grid)}: give (rows, columns), whole numbers of at least 1.")
    held = grid[0] * grid[1]
    if held > tokens or (exactly and held != tokens):
        raise BadInput(f"grid={tuple(grid)} holds {held} tokens and there are {tokens}, prefix aside: give theirs.")


def _counts(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 0


def _told(value: object) -> str:
    """A value in one short line: of a tensor what it is, not what it holds."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    return " ".join(repr(value).split())[:80]
