"""Fast Nyström attention against a plain float64 version, its limits, masks, and what it must not do."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fna.ops.centroids import KMeans
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.kernels import gpu
from fna.ops.landmarks import FarthestPoint, Random, sample_landmarks
from fna.ops.local import LocalClusters
from fna.ops.nystrom import FastNystrom, fast_nystrom
from fna.ops.rows import gather_rows
from tests.ops.reference import nystrom, random_qkv, softmax_attention


class LargestTensor(TorchDispatchMode):
    """Records how many elements the largest tensor made by any operation has."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.untyped_storage().nbytes() // t.element_size() for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return out


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.06), (torch.float16, 0.02)]
)
@pytest.mark.parametrize("scale", [0.25, 0.05, 1.0])
def test_golden(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    q, k, v = random_qkv(2, 3, 30, 16, dtype)
    index = sample_landmarks(q.mean(1), 8)
    out = fast_nystrom(q, k, v, index, scale=scale)
    expected = nystrom(q, k, v, index, scale, steps=6)
    assert out.dtype == dtype
    assert (out.double() - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_all_tokens_and_a_solve_is_softmax_attention(dtype: torch.dtype, tolerance: float) -> None:
    q, k, v = random_qkv(2, 3, 50, 16, dtype)
    out = FastNystrom(landmarks=50, inverse="exact")(q, k, v, Site(scale=0.25))
    torch.testing.assert_close(out.double(), softmax_attention(q, k, v, 0.25), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("steps", "tolerance"), [(40, 1e-9), (6, 0.1)])
def test_all_tokens_and_newton(steps: int, tolerance: float) -> None:
    q, k, v = random_qkv(2, 3, 50, 16)
    out, exact = FastNystrom(landmarks=50, steps=steps)(q, k, v, Site(scale=0.25)), softmax_attention(q, k, v, 0.25)
    assert (out - exact).norm() < tolerance * exact.norm()


def test_with_a_solve_landmark_rows_are_exact_and_rows_sum_to_one() -> None:
    q, k, v = random_qkv(2, 3, 40, 16)
    index = sample_landmarks(q.mean(1), 9)
    out = fast_nystrom(q, k, v, index, scale=0.25, inverse="exact")
    rows = index[:, None, :, None].expand(-1, 3, -1, 16)
    torch.testing.assert_close(out.gather(2, rows), softmax_attention(q, k, v, 0.25).gather(2, rows), atol=1e-9, rtol=0)
    ones = fast_nystrom(q, k, torch.ones_like(v), index, scale=0.25, inverse="exact")
    torch.testing.assert_close(ones, torch.ones_like(v), atol=1e-9, rtol=0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3)])
def test_rows_are_those_of_the_index_in_any_layout(order: tuple[int, ...]) -> None:
    x = random_qkv(2, 3, 12, 4)[0].permute(order).contiguous().permute([order.index(axis) for axis in range(4)])
    index = torch.tensor([[3, 0, 11], [5, 5, 1]])
    found = gather_rows(x, index)
    assert torch.equal(found, x.gather(2, index[:, None, :, None].expand(-1, 3, -1, 4)))
    assert found.is_contiguous()


def test_heads_are_not_mixed() -> None:
    q, k, v = random_qkv(2, 4, 30, 16)
    index = sample_landmarks(q.mean(1), 8)
    out = fast_nystrom(q, k, v, index, scale=0.25)
    for head in range(4):
        one = slice(head, head + 1)
        torch.testing.assert_close(out[:, one], fast_nystrom(q[:, one], k[:, one], v[:, one], index, scale=0.25))


@pytest.mark.parametrize("inverse", ["newton", "exact", "ridge"])
def test_hidden_tokens_are_as_good_as_absent(inverse: str) -> None:
    """Every image hides its own tokens: the rows that remain equal a run on the remaining tokens alone."""
    q, k, v = random_qkv(3, 2, 20, 8)
    keys = torch.rand(3, 20, generator=torch.Generator().manual_seed(5)) > 0.4
    keys[:, 0] = True
    keys[2] = torch.arange(20) < 4  # fewer than landmarks
    op = FastNystrom(landmarks=6, inverse=inverse)
    out = op(q, k, v, Site(scale=0.3, keys=keys))
    for b in range(3):
        kept = keys[b].nonzero()[:, 0]
        few = dataclasses.replace(op, landmarks=min(6, len(kept)))
        alone = few(*(t[b : b + 1, :, kept] for t in (q, k, v)), Site(scale=0.3))
        torch.testing.assert_close(out[b : b + 1, :, kept], alone, atol=1e-8, rtol=0)


def test_landmarks_hidden_in_a_later_layer_are_left_out() -> None:
    """Landmarks are shared, masks may not be: a landmark that this layer hides must not leak."""
    q, k, v = random_qkv(2, 2, 20, 8)
    op, memo = FastNystrom(landmarks=6), {}
    op(q, k, v, Site(scale=0.3, memo=memo))
    chosen = next(iter(memo.values()))[1].index
    keys = torch.ones(2, 20, dtype=torch.bool).scatter(1, chosen[:, 1:3], False)
    hidden = ~keys[:, None, :, None]
    first = op(q, k, v, Site(scale=0.3, memo=memo, keys=keys, layer=1))
    second = op(q, torch.where(hidden, 9.0, k), torch.where(hidden, 9.0, v), Site(scale=0.3, memo=memo, keys=keys, layer=1))
    torch.testing.assert_close(first, second)


def test_log_sizes_equal_repeated_tokens() -> None:
    q, k, v = random_qkv(2, 2, 12, 8)
    sizes = torch.tensor([1, 3, 2, 1, 4, 1, 1, 2, 1, 1, 5, 1])
    bias = sizes.double().log().expand(2, -1)
    repeated = [t.repeat_interleave(sizes, 2) for t in (k, v)]
    out = FastNystrom(landmarks=12, inverse="exact")(q, k, v, Site(scale=0.3, key_bias=bias))
    torch.testing.assert_close(out, softmax_attention(q, *repeated, 0.3), atol=1e-9, rtol=0)
    index = torch.arange(5).expand(2, -1)
    few = fast_nystrom(q, k, v, index, scale=0.3, key_bias=bias)
    torch.testing.assert_close(few, nystrom(q, k, v, index, 0.3, 6, bias), atol=1e-10, rtol=0)


def test_order_of_tokens_does_not_matter() -> None:
    q, k, v = random_qkv(2, 2, 20, 8)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(19, generator=torch.Generator().manual_seed(6))])
    op = FastNystrom(landmarks=7)
    out = op(*(t[:, :, order] for t in (q, k, v)), Site(scale=0.3))
    torch.testing.assert_close(out, op(q, k, v, Site(scale=0.3))[:, :, order], atol=1e-8, rtol=0)


@pytest.mark.parametrize(("every", "draws"), [(0, 1), (1, 6), (2, 3), (4, 2)])
def test_landmarks_are_drawn_as_often_as_asked(every: int, draws: int) -> None:
    q, k, v = random_qkv(1, 2, 20, 8)
    memo: dict = {}
    spans: list[str] = []
    clock = lambda stage: spans.append(stage) or torch.no_grad()  # noqa: E731
    for layer in range(13, 19):
        FastNystrom(landmarks=6, resample_every=every)(q, k, v, Site(scale=0.3, memo=memo, layer=layer, clock=clock))
    assert spans.count("sampling") == draws
    assert set(spans) == {"sampling", "gather", "landmark block", "inverse", "landmarks over tokens", "tokens over landmarks"}


def test_merged_tokens_get_new_landmarks() -> None:
    q, k, v = random_qkv(1, 2, 20, 8)
    op, memo = FastNystrom(landmarks=6), {}
    op(q, k, v, Site(scale=0.3, memo=memo))
    op(q[:, :, :9], k[:, :, :9], v[:, :, :9], Site(scale=0.3, memo=memo, tokens=Tokens(version=1)))
    op(q[:, :, :20], k, v, Site(scale=0.3, memo=memo))
    assert len(memo) == 2


@pytest.mark.parametrize("op", [FastNystrom(landmarks=6), LocalClusters(landmarks=6)])
def test_a_block_with_another_number_of_windows_draws_its_own(op: Any) -> None:
    """Swin: windows are images to an attention, and a smaller image or a shift makes fewer or more of them."""
    q, k, v = random_qkv(6, 2, 20, 8)
    memo: dict = {}
    for layer, windows in enumerate((6, 2, 6)):
        site = Site(scale=0.3, layer=layer, depth=3, memo=memo, tokens=Tokens(prefix=0, grid=(4, 5)))
        assert op(q[:windows], k[:windows], v[:windows], site).isfinite().all()


def test_prefix_and_suffix_are_landmarks() -> None:
    q, k, v = random_qkv(2, 2, 20, 8)
    for sampler in (FarthestPoint(), Random()):
        memo: dict = {}
        FastNystrom(sampler, landmarks=6)(q, k, v, Site(scale=0.3, memo=memo, tokens=Tokens(prefix=2, suffix=1)))
        index = next(iter(memo.values()))[1].index
        assert index[:, :3].tolist() == [[0, 1, 19]] * 2


@pytest.mark.parametrize(("landmarks", "used"), [(5, 5), (0.25, 5), (0.001, 1), (5.0, 5)])
def test_landmarks_as_count_or_fraction(landmarks: float, used: int) -> None:
    q, k, v = random_qkv(1, 2, 20, 8)
    memo: dict = {}
    FastNystrom(landmarks=landmarks)(q, k, v, Site(scale=0.3, memo=memo))
    assert next(iter(memo.values()))[1].index.shape[1] == used


def test_more_landmarks_than_tokens_takes_all_and_says_so() -> None:
    q, k, v = random_qkv(1, 2, 20, 8)
    with pytest.warns(UserWarning, match="more than a block has tokens"):
        out = FastNystrom(landmarks=64, inverse="exact")(q, k, v, Site(scale=0.3))
    torch.testing.assert_close(out, softmax_attention(q, k, v, 0.3), atol=1e-9, rtol=0)


def test_nothing_of_size_n_by_n_is_made() -> None:
    q, k, v = random_qkv(1, 2, 2048, 16, torch.float32)
    with LargestTensor() as seen, torch.no_grad():
        FastNystrom(landmarks=32)(
            q, k, v, Site(scale=0.3, keys=torch.ones(1, 2048, dtype=torch.bool), key_bias=torch.zeros(1, 2048))
        )
    assert seen.largest <= 3 * q.numel()


@pytest.mark.slow
def test_memory_grows_linearly_up_to_65536_tokens() -> None:
    sizes = {}
    for tokens in (16384, 65536):
        q, k, v = random_qkv(1, 1, tokens, 16, torch.float32)
        with LargestTensor() as seen, torch.no_grad():
            assert FastNystrom(landmarks=32)(q, k, v, Site(scale=0.3)).isfinite().all()
        sizes[tokens] = seen.largest
    assert sizes[65536] <= 4.1 * sizes[16384]


@pytest.mark.parametrize("field", ["causal", "dense"])
def test_what_cannot_be_honoured_is_refused(field: str) -> None:
    q, k, v = random_qkv(1, 2, 20, 8)
    with pytest.raises(Unsupported, match=rf"FastNystrom.*'{field}'.*block 3.*exact"):
        FastNystrom()(q, k, v, Site(scale=0.3, layer=3, **{field: torch.zeros(1, 1, 20, 20) if field == "dense" else True}))
    with pytest.raises(Unsupported, match="as many queries as keys"):
        FastNystrom()(q[:, :, :1], k, v, Site(scale=0.3))


@pytest.mark.parametrize(
    "wrong",
    [{"landmarks": 0}, {"landmarks": -3}, {"landmarks": 2.5}, {"landmarks": "many"}, {"landmarks": True}, {"landmarks": math.nan},
     {"inverse": "pinv"}, {"steps": 0}, {"ridge": 0.0}, {"resample_every": -1}, {"sampler": KMeans()}],
)  # fmt: skip
def test_constructor_refuses(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as refusal:
        FastNystrom(**wrong)
    assert "\n" not in str(refusal.value)


def test_input_features_need_the_blocks_input() -> None:
    q, k, v = random_qkv(1, 2, 20, 8)
    op = FastNystrom(FarthestPoint("input"), landmarks=6)
    with pytest.raises(Unsupported, match="features=input"):
        op(q, k, v, Site(scale=0.3))
    assert op(q, k, v, Site(scale=0.3, hidden=torch.randn(1, 20, 24))).isfinite().all()


@pytest.mark.slow
def test_compiles_without_a_graph_break() -> None:
    q, k, v = random_qkv(2, 2, 40, 16, torch.float32)
    op, tokens = FastNystrom(landmarks=5), Tokens(prefix=1)
    with torch.no_grad():
        compiled = torch.compile(lambda q, k, v: op(q, k, v, Site(scale=0.25, tokens=tokens)), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(q, k, v), op(q, k, v, Site(scale=0.25)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learnt", [1, 2])
def test_learnt_keys_or_values_leave_the_gpu_kernels_out(learnt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no gradient; that the queries need none is not enough."""
    monkeypatch.setattr(gpu, "available", lambda *_: True)
    monkeypatch.setattr(gpu, "fast_nystrom", lambda *_: pytest.fail("the kernel was taken"))
    qkv = random_qkv(1, 2, 40, 16, torch.float32)
    qkv[learnt].requires_grad_()
    fast_nystrom(*qkv, torch.arange(5)[None], scale=0.25).sum().backward()
    assert qkv[learnt].grad.norm() > 0
