"""The three inverses against their formulas, on good, bad and singular landmark blocks."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from fna.ops.inverse import METHODS, apply_inverse
from fna.ops.kernels import cpu
from tests.ops.reference import newton_inverse, random_qkv


def block(tokens: int = 24, sharpness: float = 1.0, dtype: torch.dtype = torch.float64):
    q, k, v = random_qkv(2, 2, tokens, 8)
    return (sharpness * q @ k.mT).softmax(-1).to(dtype), v.to(dtype)


@pytest.mark.parametrize("steps", [1, 2, 6, 12])
@pytest.mark.parametrize("tokens", [1, 5, 24])
def test_newton_is_the_papers_iteration(steps: int, tokens: int) -> None:
    a, rhs = block(tokens)
    expected = torch.stack([torch.stack([newton_inverse(m, steps) for m in image]) for image in a]) @ rhs
    torch.testing.assert_close(apply_inverse(a, rhs, "newton", steps), expected, atol=1e-9, rtol=1e-9)


def test_newton_converges_in_float64() -> None:
    a, rhs = block(sharpness=0.7)
    torch.testing.assert_close(a @ apply_inverse(a, rhs, "newton", 40), rhs, atol=1e-8, rtol=0)


def test_newton_in_float32_corrects_its_own_rounding() -> None:
    a, rhs = block(sharpness=0.7)
    wide = apply_inverse(a, rhs, "newton", 40)
    narrow = apply_inverse(a.float(), rhs.float(), "newton", 40)
    assert (narrow - wide).norm() < 1e-2 * wide.norm()


def crooked(dtype: torch.dtype = torch.float32):
    """Blocks ``[3, 1, 24, 24]``: a good one, one whose singular values fall to nothing, one of equal rows."""
    good = block(sharpness=0.7)[0][0, 0]
    q = random_qkv(1, 1, 24, 3)[0][0, 0]
    low = (0.3 * q @ q.mT).softmax(-1)  # rank 3 in the logits
    blocks = torch.stack([good, low, good[:1].expand(24, -1)])[:, None]
    return blocks.to(dtype), block()[1][:1, :1].expand(3, -1, -1, -1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "plain"])
def test_newton_ends_where_its_residual_no_longer_falls(dtype: torch.dtype, plain: bool) -> None:
    """However many steps are asked for: from the best on nothing changes, and rounding does not pile up to NaN."""
    a, rhs = crooked(dtype)
    with cpu.without_kernels() if plain else nullcontext():
        late = [apply_inverse(a, rhs, "newton", steps) for steps in (100, 400)]
        alone = torch.cat([apply_inverse(a[i : i + 1], rhs[i : i + 1], "newton", 100) for i in range(len(a))])
    assert late[0].isfinite().all()
    assert torch.equal(*late)
    torch.testing.assert_close(alone, late[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close((a @ late[0])[0], rhs[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [7, 8, 12, 16, 30])
def test_both_versions_of_newton_end_at_the_same_step(steps: int) -> None:
    a, rhs = crooked()
    with cpu.without_kernels():
        plain = apply_inverse(a, rhs, "newton", steps)
    torch.testing.assert_close(apply_inverse(a, rhs, "newton", steps)[::2], plain[::2], atol=1e-2, rtol=1e-2)


def test_gradients_stay_finite_beyond_the_best_step() -> None:
    a, rhs = crooked()
    a.requires_grad_()
    apply_inverse(a, rhs, "newton", 60).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_exact_solves() -> None:
    a, rhs = block()
    torch.testing.assert_close(a @ apply_inverse(a, rhs, "exact"), rhs, atol=1e-10, rtol=0)


def test_ridge_is_its_formula() -> None:
    a, rhs = block()
    gram = a.mT @ a + 1e-3 * a.sum(-2).amax(-1)[..., None, None] * torch.eye(a.shape[-1], dtype=a.dtype)
    torch.testing.assert_close(apply_inverse(a, rhs, "ridge", ridge=1e-3), torch.linalg.inv(gram) @ a.mT @ rhs, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_blocks_give_something_sane(method: str, dtype: torch.dtype) -> None:
    """Identical tokens: every row of A is the same; the right-hand side of equal rows must come back through A."""
    a = torch.full((2, 1, 6, 6), 1 / 6, dtype=dtype)
    a[1] = block(6)[0][0, :1].to(dtype)  # a batch mate that is fine
    rhs = torch.arange(4.0, dtype=dtype).expand(2, 1, 6, 4).contiguous()
    solved = apply_inverse(a, rhs, method)
    assert solved.isfinite().all()
    torch.testing.assert_close((a @ solved)[0], rhs[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(solved[1:], apply_inverse(a[1:], rhs[1:], method), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_stay_finite_on_singular_blocks(method: str) -> None:
    a = torch.full((2, 6, 6), 1 / 6)
    a[1] = block(6)[0][0, 0].float()
    a.requires_grad_()
    apply_inverse(a, torch.ones(2, 6, 3), method).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(method: str, dtype: torch.dtype) -> None:
    a, rhs = block(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solved = apply_inverse(a, rhs, method)
    assert solved.dtype == torch.float32
    torch.testing.assert_close(solved, apply_inverse(a.float(), rhs.float(), method))


def test_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match=r"inverse=pinv.*newton"):
        apply_inverse(*block(), method="pinv")
