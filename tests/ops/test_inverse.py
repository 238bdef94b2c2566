"""The three inverses against their formulas, on good, bad and singular landmark blocks."""

from __future__ import annotations

import pytest
import torch

from fna.ops.inverse import METHODS, apply_inverse
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
