"""The Triton kernels against plain versions: on a GPU as compiled, elsewhere in Triton's interpreter."""

from __future__ import annotations

import logging
import multiprocessing
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton")
from fna.ops.centroids import Centroids, group_mass, group_sums
from fna.ops.kernels import cpu_local, fps, gpu, local, nystrom
from fna.ops.local import Layout, _weights, windowed
from tests.ops.test_local import drawn

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = pytest.mark.skipif(
    not GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU, and Triton was not started as an interpreter"
)


def plain_points(x: Tensor, count: int, prefix: int, keep: Tensor | None, drop: Tensor | None) -> tuple[Tensor, Tensor]:
    """One row and one step at a time; the lowest index wins a tie."""
    chosen = torch.zeros(len(x), count, dtype=torch.int64)
    valid = torch.zeros(len(x), count, dtype=torch.bool)
    for row, points in enumerate(x.double().cpu()):
        kept = torch.arange(len(points)) < prefix
        kept |= keep[row].cpu() if keep is not None else False
        free = ~kept & (~drop[row].cpu() if drop is not None else True)
        gap = torch.full((len(points),), torch.inf, dtype=torch.float64)
        queue = kept.nonzero().flatten().tolist()
        for step in range(count):
            if queue:
                last = queue.pop(0)
            elif free.any():
                last = int(torch.where(free, gap, -1.0).argmax())
            else:
                break
            free[last] = False
            gap = torch.minimum(gap, (points - points[last]).square().sum(-1))
            chosen[row, step], valid[row, step] = last, True
    return chosen, valid


def integer_points(rows: int, tokens: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (rows, tokens, width), generator=generator).float().to(DEVICE)


def same_points(x: Tensor, count: int, prefix: int = 0, keep: Tensor | None = None, drop: Tensor | None = None) -> None:
    chosen, valid = gpu.farthest_points(x, count, prefix, keep, drop)
    expected, there = plain_points(x, count, prefix, keep, drop)
    assert torch.equal(valid.cpu(), there)
    assert torch.equal(torch.where(there, chosen.cpu(), 0), expected)


@pytest.mark.parametrize(("rows", "tokens", "width", "count"), [(1, 1, 1, 1), (2, 37, 5, 12), (3, 300, 64, 17), (1, 150, 130, 9)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_points_equal_the_plain_selection(rows: int, tokens: int, width: int, count: int, prefix: int) -> None:
    same_points(integer_points(rows, tokens, width), count, prefix)


def test_points_keep_and_drop_ragged_rows() -> None:
    generator = torch.Generator().manual_seed(1)
    keep = (torch.rand(4, 90, generator=generator) < 0.1).to(DEVICE)
    drop = (torch.rand(4, 90, generator=generator) < 0.6).to(DEVICE)
    drop[2] = True  # only kept tokens left: fewer than asked for
    same_points(integer_points(4, 90, 3), 30, 1, keep, drop)
    same_points(integer_points(4, 90, 3), 5, 0, keep, None)
    same_points(integer_points(4, 90, 3), 30, 0, None, drop)


def test_coincident_points_are_distinct_in_index_order() -> None:
    chosen, valid = gpu.farthest_points(torch.ones(2, 8, 4, device=DEVICE), 8)
    assert valid.all()
    assert chosen.tolist() == [list(range(8))] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_of_a_strided_half_input(dtype: torch.dtype) -> None:
    wide = integer_points(2, 50, 3 * 16).to(dtype)
    same_points(wide.view(2, 50, 3, 16)[:, :, 1], 10, 1)


def test_one_batch_row_does_not_touch_another() -> None:
    x = torch.randn(3, 70, 8, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    together, _ = gpu.farthest_points(x, 20)
    assert torch.equal(together[1:2], gpu.farthest_points(x[1:2], 20)[0])


def _part_of_a_row(x: Tensor, count: int, buffers: tuple[Tensor, ...], programs: int, first: int) -> None:
    fps.run_part(x, count, 1, None, None, buffers, programs, parts=1, first=first)  # type: ignore[arg-type]


@pytest.mark.skipif(GPU, reason="on a GPU the programs run at once anyway")
def test_programs_of_a_row_agree_across_processes() -> None:
    """Two programs a row, in two processes on shared memory, because the interpreter runs one program after the other."""
    x = integer_points(2, 61, 7).share_memory_()
    buffers = tuple(tensor.share_memory_() for tensor in fps._buffers(x, 15, 2))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_part_of_a_row, args=(x, 15, buffers, 2, first)) for first in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert torch.equal(buffers[0], plain_points(x, 15, 1, None, None)[0])


@pytest.mark.parametrize("programs", [2, 5])
@pytest.mark.skipif(not GPU, reason="programs wait for each other: the interpreter runs them one by one")
def test_programs_of_a_row_agree(programs: int) -> None:
    x = integer_points(3, 700, 16)
    assert torch.equal(fps.launch(x, 40, 1, programs=programs)[0].cpu(), plain_points(x, 40, 1, None, None)[0])


def test_a_row_is_shared_only_where_it_is_long() -> None:
    assert fps.programs_per_row(16, 4097, 132) == 8
    assert fps.programs_per_row(16, 257, 132) == 2
    assert fps.programs_per_row(200, 4097, 132) == 1


def heads(batch: int, count: int, tokens: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """q, k, v as views of one projection, clustered so that landmarks mean something."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, 8, 3, count, width, generator=generator)
    pick = torch.randint(8, (tokens,), generator=generator)
    qkv = centres[:, pick] + 0.3 * torch.randn(batch, tokens, 3, count, width, generator=generator)
    return list(qkv.to(DEVICE, dtype).permute(2, 0, 3, 1, 4).unbind(0))


def plain_fna(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """The published formula in float64."""
    q, k, v = (tensor.double() for tensor in (q, k, v))
    where = index[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1])
    marks_q, marks_k = q.gather(2, where), k.gather(2, where)
    block = (marks_q @ marks_k.mT * scale).softmax(-1)
    inverse = block.mT / block.sum(-2).amax(-1)[..., None, None]
    same = torch.eye(index.shape[1], dtype=q.dtype, device=q.device)
    for _ in range(6):
        y = block @ inverse
        inverse = inverse @ (13 * same - y @ (15 * same - y @ (7 * same - y))) / 4
    mask = None if bias is None else bias.double()[:, None, None, :]
    values = inverse @ F.scaled_dot_product_attention(marks_q, k, v, attn_mask=mask, scale=scale)
    return F.scaled_dot_product_attention(q, marks_k, values, scale=scale)


def error(out: Tensor, expected: Tensor) -> float:
    return ((out.double() - expected).norm() / expected.norm()).item()


LIMITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


@pytest.mark.parametrize(
    ("tokens", "width", "count", "dtype"),
    [(70, 16, 5, torch.float32), (130, 64, 32, torch.bfloat16), (90, 64, 32, torch.float16), (200, 40, 64, torch.float32)],
)
def test_fna_equals_the_plain_formula(tokens: int, width: int, count: int, dtype: torch.dtype) -> None:
    q, k, v = heads(2, 2, tokens, width, dtype)
    index, _ = gpu.farthest_points(q.float().mean(1), count, 1)
    out = gpu.fast_nystrom(q, k, v, index, width**-0.5)
    assert out.shape == q.shape
    assert out.dtype == dtype
    assert error(out, plain_fna(q, k, v, index, width**-0.5)) < LIMITS[dtype]


def test_more_than_64_landmarks_use_bfloat16_products() -> None:
    q, k, v = heads(1, 2, 260, 32)
    index, _ = gpu.farthest_points(q.mean(1), 100, 1)
    expected = plain_fna(q, k, v, index, 0.2)
    exact = F.scaled_dot_product_attention(q, k, v, scale=0.2).double()
    out = gpu.fast_nystrom(q, k, v, index, 0.2)
    assert error(out, expected) < 2e-2
    assert error(out, exact) < 1.1 * error(expected, exact) + 2e-3


@pytest.mark.parametrize("splits", [1, 2, 3])
def test_splits_of_the_keys_do_not_show(splits: int) -> None:
    q, k, v = heads(1, 2, 300, 16)
    index = torch.arange(0, 300, 20, device=DEVICE)[None]
    out = nystrom.launch(q, k, v, index, 0.25, splits=splits)
    assert error(out, plain_fna(q, k, v, index, 0.25)) < 1e-4


def test_hidden_keys_weigh_nothing() -> None:
    q, k, v = heads(2, 2, 150, 16)
    index = torch.arange(0, 60, 4, device=DEVICE).expand(2, -1)
    bias = torch.zeros(2, 150, device=DEVICE)
    bias[0, 60:] = -torch.inf  # whole shares of the keys hidden
    bias[1] = torch.linspace(0, 2, 150)
    out = nystrom.launch(q, k, v, index, 0.25, bias, splits=3)
    assert error(out, plain_fna(q, k, v, index, 0.25, bias)) < 1e-4


@pytest.mark.parametrize(
    ("grid", "prefix", "suffix", "width", "count", "reach", "dtype"),
    [
        ((9, 11), 1, 0, 16, 7, 2, torch.float32),
        ((1, 19), 0, 0, 40, 3, 1, torch.float32),
        ((8, 5), 2, 1, 64, 33, 4, torch.bfloat16),
        ((3, 3), 1, 0, 16, 4, 2, torch.float16),  # every window is the grid
        ((17, 8), 1, 0, 8, 9, 0, torch.float32),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_windows_and_clusters_equal_the_plain_version(
    grid: tuple[int, int], prefix: int, suffix: int, width: int, count: int, reach: int, dtype: torch.dtype, weighted: bool
) -> None:
    layout = Layout(prefix + grid[0] * grid[1] + suffix, prefix, grid)
    q, k, v = heads(2, 2, layout.tokens, width, dtype)
    bias = torch.linspace(-2, 2, layout.tokens, dtype=torch.float32, device=DEVICE).expand(2, -1).clone() if weighted else None
    if bias is not None:
        bias[1, ::3] = -torch.inf
    groups = drawn(2, layout, layout.ends + count, hidden=None if bias is None else bias.isneginf().cpu())
    expected = windowed(*(x.double().cpu() for x in (q, k, v)), groups, layout, reach, 0.3, None if bias is None else bias.cpu())
    out = fused_windows(q, k, v, groups, layout, reach, 0.3, bias)
    assert out.dtype == dtype
    assert error(out.cpu(), expected) < LIMITS[dtype]


def test_a_query_that_sees_nothing_gets_zeros_and_a_row_does_not_touch_another() -> None:
    layout = Layout(1 + 6 * 7, 1, (6, 7))
    q, k, v = heads(2, 1, layout.tokens, 16)
    bias = torch.zeros(2, layout.tokens, device=DEVICE)
    bias[1] = -torch.inf
    groups = drawn(2, layout, 5, hidden=bias.isneginf().cpu())
    out = fused_windows(q, k, v, groups, layout, 1, 0.25, bias)
    assert not out[1].any()
    assert error(out[:1], fused_windows(q[:1], k[:1], v[:1], _first(groups), layout, 1, 0.25, None)) < 1e-5


def fused_windows(
    q: Tensor, k: Tensor, v: Tensor, groups: Centroids, layout: Layout, reach: int, scale: float, bias: Tensor | None
) -> Tensor:
    """`windowed` by the Triton kernel, on the device of these tests."""
    weight = None if bias is None else _weights(bias)
    group, count = groups.assignment.to(DEVICE), groups.sizes.shape[1]
    sums = [group_sums(x, group, count, weight) for x in (k, v)]
    mass = group_mass(Centroids(group, groups.sizes.to(DEVICE)), weight)
    return local.launch(q, k, v, *sums, mass, group, layout.start, *layout.grid, reach, scale, weight)


def _first(groups: Centroids) -> Centroids:
    return Centroids(groups.assignment[:1], groups.sizes[:1])


def test_operators_are_well_formed() -> None:
    """Fake versions agree with the real ones, nothing is changed in place: what torch.compile relies on."""
    q, k, v = heads(1, 2, 70, 16)
    x, index = q.mean(1), torch.arange(0, 70, 7, device=DEVICE)[None]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(gpu.farthest_points, (x, 6, 1), test_utils=tests)
    torch.library.opcheck(gpu.fast_nystrom, (q, k, v, index, 0.25), test_utils=tests)
    mass, group = torch.full((1, 3), 23.0, device=DEVICE), torch.arange(70, device=DEVICE)[None] % 3
    sums = group_sums(k, group, 3)
    torch.library.opcheck(cpu_local.windowed, (q, k, v, sums, sums, mass, group, 1, 3, 23, 1, 0.25), test_utils=tests)


def test_a_layer_is_three_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    for name in ("_landmarks_over_tokens", "_pseudo_values", "_tokens_over_landmarks"):
        kernel = getattr(nystrom, name)
        monkeypatch.setattr(nystrom, name, _Counted(kernel, launched))
    q, k, v = heads(1, 1, 64, 16)
    nystrom.launch(q, k, v, torch.arange(4, device=DEVICE)[None], 0.25)
    assert len(launched) == 3


class _Counted:
    def __init__(self, kernel: object, launched: list[object]) -> None:
        self.kernel, self.launched = kernel, launched

    def __getitem__(self, grid: object) -> object:
        self.launched.append(grid)
        return self.kernel[grid]  # type: ignore[index]


def test_what_does_not_fit_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    q = torch.zeros(1, 1, 4, 256)
    assert "head width 256" in str(gpu.unfit(q))
    assert "dtype" in str(gpu.unfit(q[..., :64].double()))
    assert "landmarks" in str(gpu.unfit(q[..., :64], 500))
    assert gpu.unfit(q[..., :64], 64) is None
    assert not gpu.available(q[..., :64]) or GPU
    with caplog.at_level(logging.WARNING):
        gpu._say("a test asked")
        gpu._say("a test asked")
    assert len(caplog.records) == 1
