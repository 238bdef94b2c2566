"""The three factors of Nyström attention in one C++ kernel: float64's numbers, the pieces', and what all kernels promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fna.ops import nystrom as module
from fna.ops.contract import Site, Unsupported
from fna.ops.kernels import cpu
from fna.ops.kernels.cpu_nystrom import nystrom
from fna.ops.nystrom import FastNystrom, fast_nystrom, through_landmarks
from fna.ops.rows import gather_rows
from tests.ops import reference
from tests.ops.test_cpu_kernels import close, side_by_side, threads  # noqa: F401

pytestmark = pytest.mark.skipif(not cpu.built(), reason="no C++ compiler on this machine")
SHAPES = (
    (1, 12, 1025, 64, 64),
    (2, 3, 197, 64, 32),
    (1, 2, 50, 20, 7),
    (3, 1, 300, 80, 33),
    (1, 3, 1, 64, 1),
    (1, 2, 2049, 23, 130),
)


def landmarks(batch: int, tokens: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randperm(tokens, generator=generator)[:count] for _ in range(batch)])


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    def call(*args: Any, **options: Any) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(module, "both_by_kernels", lambda *tensors: False)
            return fast_nystrom(*args, **options)

    return call


@pytest.mark.parametrize("shape", SHAPES)
def test_six_steps_are_those_of_float64(shape: tuple[int, ...]) -> None:
    batch, heads, tokens, width, count = shape
    q, k, v = side_by_side(batch, heads, tokens, width)
    index, scale = landmarks(batch, tokens, count), width**-0.5
    expected = reference.nystrom(q.double(), k.double(), v.double(), index, scale, 6)
    close(nystrom(q, k, v, q, k, index, scale, 6, 0.0), expected, 3e-6)


@pytest.mark.parametrize("inverse", ["newton", "ridge", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_the_pieces(shape: tuple[int, ...], dtype: torch.dtype, inverse: str, in_pieces: Callable[..., Tensor]) -> None:
    batch, heads, tokens, width, count = shape
    q, k, v = (x.to(dtype) for x in side_by_side(batch, heads, tokens, width))
    if not cpu.reads(q, k, v):
        pytest.skip(f"the compiler knows no {dtype}")
    index = landmarks(batch, tokens, count)
    spans: list[str] = []
    clock = lambda stage: spans.append(stage) or torch.no_grad()  # noqa: E731
    out = fast_nystrom(q, k, v, index, scale=width**-0.5, inverse=inverse, clock=clock)
    assert spans == ["kernels"]
    expected = in_pieces(q, k, v, index, scale=width**-0.5, inverse=inverse)
    assert out.dtype == dtype
    close(out, expected.double(), 4e-5 if dtype == torch.float32 else torch.finfo(dtype).eps)


def test_landmarks_that_are_no_tokens() -> None:
    q, k, v = side_by_side(2, 3, 300, 64)
    index = landmarks(2, 300, 16)
    marks = [gather_rows(x, index) for x in (q, k)]
    out = through_landmarks(q, k, v, *marks, scale=0.125)
    assert torch.equal(out, fast_nystrom(q, k, v, index, scale=0.125))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_batch_nor_threads_show(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in side_by_side(3, 4, 1500, 64))
    index = landmarks(3, 1500, 48)
    torch.set_num_threads(1)
    alone = torch.cat([fast_nystrom(q[i : i + 1], k[i : i + 1], v[i : i + 1], index[i : i + 1], scale=0.125) for i in range(3)])
    torch.set_num_threads(3)
    assert torch.equal(fast_nystrom(q, k, v, index, scale=0.125), alone)


@pytest.mark.parametrize("wrong", [-1, 50])
def test_a_landmark_that_is_no_token_is_refused(wrong: int) -> None:
    q, k, v = side_by_side(1, 2, 50, 16)
    index = torch.tensor([[3, wrong, 7]])
    with pytest.raises(IndexError, match="50 tokens"):
        fast_nystrom(q, k, v, index, scale=0.25)


def test_an_image_of_nan_stays_its_own() -> None:
    q, k, v = side_by_side(2, 2, 200, 16)
    q[0, 0, 3] = float("nan")
    out = fast_nystrom(q, k, v, landmarks(2, 200, 9), scale=0.25)
    assert out[0, 0, 3].isnan().all()
    assert out[1].isfinite().all()


def test_flops_are_those_of_the_pieces(in_pieces: Callable[..., Tensor]) -> None:
    q, k, v = side_by_side(2, 3, 300, 64)
    index = landmarks(2, 300, 48)

    def counted(call: Callable[..., Tensor], inverse: str) -> int:
        with FlopCounterMode(display=False) as counter:
            call(q, k, v, index, scale=0.125, inverse=inverse)
        return counter.get_total_flops()

    for inverse in ("newton", "ridge"):
        assert counted(fast_nystrom, inverse) == counted(in_pieces, inverse)


def test_pieces_where_something_is_added_or_gradients_are_wanted() -> None:
    q, k, v = side_by_side(1, 2, 60, 16)
    learning = q.clone().requires_grad_()
    for queries, keys in ((q, (torch.arange(60) < 50)[None]), (learning, None)):
        spans: list[str] = []
        clock = lambda stage, spans=spans: spans.append(stage) or torch.enable_grad()  # noqa: E731
        FastNystrom(landmarks=8)(queries, k, v, Site(scale=0.25, keys=keys, clock=clock))
        assert "kernels" not in spans
        assert "landmark block" in spans


def test_more_steps_than_float32_bears_are_refused() -> None:
    q, k, v = side_by_side(1, 2, 60, 16)
    with pytest.raises(Unsupported, match="steps=17"):
        fast_nystrom(q, k, v, landmarks(1, 60, 8), scale=0.25, steps=17)
