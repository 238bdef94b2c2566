"""Applying the inverse of a landmark block: truncated Newton (the paper's), a solve, a ridge solve, or the cheapest that will do.

The block ``A`` ``[..., M, M]`` is row-stochastic (a softmax), so ``|A|_inf = 1`` and ``|A|_1 |A|_inf``, which bounds the largest
squared singular value, is the largest column sum. No inverse is ever formed: each method takes the right-hand side.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from fna.ops.contract import BadInput, autocasts, unread, whole
from fna.ops.kernels import cpu

Inverse = Literal["newton", "exact", "ridge", "auto"]
METHODS = get_args(Inverse)
SURE = 6  # steps that are always taken: the published ones, whose cost stays as it is
AS_GOOD, WORTHWHILE = 3e-4, 48  # the ridge of inverse=auto, and the landmarks from which on it is taken: see `cheapest`
_BLOWN_UP = 1e10  # a solution this much larger than its right-hand side is rounding noise, even in float64


def apply_inverse(a: Tensor, rhs: Tensor, method: str = "newton", steps: int = 6, ridge: float = 1e-4) -> Tensor:
    """``A^+ rhs`` for row-stochastic ``a`` ``[..., M, M]`` and ``rhs`` ``[..., M, d]``, in float32 at least.

    - ``newton``: ``steps`` steps of the paper's iteration. Six of them damp singular values with ``s^2 / |A|_1`` below about
      6e-4 instead of inverting them; on ill-conditioned blocks that is what keeps the method stable. Beyond six a matrix stops at
      the iterate from which on its residual ``|I - A Z|`` no longer falls, each for itself, so that rounding never piles up.
    - ``exact``: solves in float64. Where ``A`` is singular (identical tokens) or as good as that, ``ridge`` with 1e-12, near
      enough the least-squares solution of smallest norm. For limit tests: slower and, on real blocks, worse than six steps.
    - ``ridge``: ``(A^T A + ridge |A|_1 I)^-1 A^T rhs`` by Cholesky; half-power at ``s^2 / |A|_1 = ridge``.
    - ``auto``: what `cheapest` says for M, whatever ``steps`` and ``ridge`` are.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, rhs.dtype), torch.float32)
    a, rhs = a.to(dtype), rhs.to(dtype)
    if method == "auto":
        method, steps, ridge = cheapest(whole(a.shape[-1]))
    with full_precision(a):
        if method == "newton":
            return _newton(a, rhs, steps)
        if method == "ridge":
            return cpu.ridge(a, rhs, ridge) if _fits(a, rhs) else _ridge(a, rhs, ridge)
        if method == "exact":
            return _exact(a, rhs)
    raise BadInput(f"inverse={method}: choose one of {', '.join(METHODS)}.")


def cheapest(landmarks: int) -> tuple[str, int, float]:
    """Method, steps and ridge of ``inverse=auto``: the cheapest whose outputs are no further from exact attention's than those of
    the six published steps.

    A ridge of 3e-4 costs a ninth of their FLOPs at 256 landmarks and a quarter of their time at 64 in our kernels (in plain torch
    it gains from about 96 on). Relative error of the output, six steps against it, 32 images each: embedded CLIP, last half, 16,
    64 and 256 landmarks: .167 and .161, .067 and .061, .071 and .062; ViT-Ti at 512 px, last half, 32 and 256: .155 and .145, .134
    and .112 (docs/speed.md has the command). It depends on the number of landmarks alone, so that a result does not depend on the
    machine.
    """
    return ("ridge", 1, AS_GOOD) if landmarks >= WORTHWHILE else ("newton", SURE, AS_GOOD)


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Autocast switched off on ``like``'s device: half precision is not enough for an inverse.

    Only where it is on: in a layer of a small model, entering it costs as much as two of the products.
    """
    return torch.autocast(like.device.type, enabled=False) if autocasts(like) else nullcontext()


def largest_column_sum(a: Tensor) -> Tensor:
    """``|A|_1`` of every matrix, ``[..., 1, 1]``: per matrix, so that batch mates do not influence each other."""
    return a.sum(-2, keepdim=True).amax(-1, keepdim=True)


def _fits(a: Tensor, rhs: Tensor) -> bool:
    """Whether the CPU kernels take this block and right-hand side."""
    return rhs.dim() == 4 and a.shape[:3] == rhs.shape[:3] and cpu.serves(a, rhs)


def _newton(a: Tensor, rhs: Tensor, steps: int) -> Tensor:
    """``Z_steps rhs`` of Z <- 1/4 Z (13 I - AZ (15 I - AZ (7 I - AZ))), Z_0 = A^T / |A|_1 (paper, section on FNA; facts §1.6).

    Multiplied out, so that every sum rides on a product (``baddbmm``) and no identity is made. The last step meets ``rhs`` inside
    the bracket, so that for d < M it costs M^2 d, not M^3. Writing all steps with the residual I - AZ would halve the products,
    but no longer corrects its own rounding: 2 % off after 20 steps in float32, then NaN.
    """
    if _fits(a, rhs):
        return cpu.newton(a, rhs, steps)
    shape = rhs.shape
    a, rhs = a.reshape(-1, *a.shape[-2:]), rhs.reshape(-1, *shape[-2:])
    z = a.mT / largest_column_sum(a)
    watch = _Watch()
    for step in range(steps - 1):
        y = torch.bmm(a, z)
        if step >= SURE:
            z, y = watch.best(z, y)
        bracket = torch.baddbmm(y, y, y, beta=7, alpha=-1)
        bracket = torch.baddbmm(y, y, bracket, beta=15, alpha=-1)
        z = torch.baddbmm(z, z, bracket, beta=13 / 4, alpha=-1 / 4)
    y = torch.bmm(a, z)
    if steps > SURE:
        z, y = watch.best(z, y)
    bracket = torch.baddbmm(rhs, y, rhs, beta=7, alpha=-1)
    bracket = torch.baddbmm(rhs, y, bracket, beta=15, alpha=-1)
    bracket = torch.baddbmm(rhs, y, bracket, beta=13 / 4, alpha=-1 / 4)
    if watch.ended is not None:
        bracket = torch.where(watch.ended, rhs, bracket)
    return torch.bmm(z, bracket).view(shape)


class _Watch:
    """Holds every matrix of a batch ``[n, M, M]`` at its best iterate, by mask: no look at the data, no word between matrices."""

    def __init__(self) -> None:
        self.z: Tensor | None = None
        self.y: Tensor | None = None
        self.left: Tensor | None = None
        self.ended: Tensor | None = None  # bool [n, 1, 1]

    def best(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The iterate ``z`` with ``y = A z`` where its residual is smaller than that of the last one, else the last one again."""
        left = (y - torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)).square().sum((-2, -1), keepdim=True)
        if self.z is not None and self.y is not None and self.left is not None:
            rising = ~(left < self.left)  # NaN is no improvement
            self.ended = rising if self.ended is None else self.ended | rising
            z, y = torch.where(self.ended, self.z, z), torch.where(self.ended, self.y, y)
            left = torch.where(self.ended, self.left, left)
        self.z, self.y, self.left = z, y, left
        return z, y


def _ridge(a: Tensor, rhs: Tensor, ridge: float) -> Tensor:
    """Cholesky solve of the regularised normal equations, refined once; see `apply_inverse` for the scaling.

    The refinement takes back what rounding in ``A^T A`` does, which differs with the size of a batch.
    """
    shift = ridge * largest_column_sum(a)
    gram = a.mT @ a
    gram.diagonal(dim1=-2, dim2=-1).add_(shift[..., 0])
    factor = torch.linalg.cholesky_ex(gram)[0]
    x = torch.cholesky_solve(a.mT @ rhs, factor)
    return x + torch.cholesky_solve(a.mT @ (rhs - a @ x) - shift * x, factor)


def _exact(a: Tensor, rhs: Tensor) -> Tensor:
    """LU solve in float64, the smallest workable ridge where that fails (finding out costs a look at the result)."""
    wide, right = a.double(), rhs.double()
    solution, info = torch.linalg.solve_ex(wide, right)
    size = solution.detach().abs().amax((-2, -1))
    good = ((info == 0) & (size <= _BLOWN_UP * right.detach().abs().amax((-2, -1)).clamp_min(1e-300)))[..., None, None]
    if unread(good) or not bool(good.all()):
        eye = torch.eye(a.shape[-1], dtype=wide.dtype, device=a.device)  # keeps the gradient of the failures finite
        solution = torch.where(good, torch.linalg.solve_ex(torch.where(good, wide, eye), right)[0], _ridge(wide, right, 1e-12))
    return solution.to(a.dtype)
