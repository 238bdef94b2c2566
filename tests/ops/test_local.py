"""Windows and clusters under one softmax: against the definition by loops, its limits, and the kernel against the plain version."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fna.errors import UserError
from fna.ops.centroids import Centroids, DriftingKMeans, KMeans, SegmentMeans, _lloyd
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.kernels import cpu, cpu_local
from fna.ops.landmarks import FarthestPoint
from fna.ops.local import Layout, LocalClusters, residual, typical, windowed
from fna.ops.windows import tiles
from tests.ops.reference import random_qkv, softmax_attention

INFINITY = float("inf")


def drawn(batch: int, layout: Layout, count: int, seed: int = 0, hidden: Tensor | None = None) -> Centroids:
    """Random groups of the grid's tokens; those outside it are groups of their own, hidden ones have none."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(layout.ends, count, (batch, layout.tokens), generator=generator)
    group[:, layout.outside(group.device)] = torch.arange(layout.ends)
    if hidden is not None:
        group[hidden] = -1
    return Centroids(group, (group[:, None, :] == torch.arange(count)[:, None]).sum(-1))


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, groups: Centroids, layout: Layout, reach: int, scale: float, bias: Tensor | None = None
) -> Tensor:
    """One query at a time: the window's keys, and for every group the mean of its members outside the window."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    cells = list(itertools.product(range(layout.grid[0]), range(layout.grid[1])))
    for b, h, i in itertools.product(range(q.shape[0]), range(q.shape[1]), range(layout.cells)):
        weight = torch.ones(layout.tokens, dtype=torch.float64) if bias is None else bias[b].double().exp()
        query, keys, values = q[b, h, layout.start + i].double(), k[b, h].double(), v[b, h].double()
        window = [
            layout.start + j
            for j, (row, column) in enumerate(cells)
            if abs(row - cells[i][0]) <= reach and abs(column - cells[i][1]) <= reach and weight[layout.start + j] > 0
        ]
        mass, means, sums = [weight[j] for j in window], [keys[j] for j in window], [values[j] for j in window]
        for group in range(groups.sizes.shape[1]):
            rest = [j for j in range(layout.tokens) if groups.assignment[b, j] == group and j not in window and weight[j] > 0]
            if rest:
                share = weight[rest] / weight[rest].sum()
                mass.append(weight[rest].sum())
                means.append(share @ keys[rest])
                sums.append(share @ values[rest])
        if mass:
            logits = scale * torch.stack(means) @ query + torch.stack(mass).log()
            out[b, h, layout.start + i] = logits.softmax(0) @ torch.stack(sums)
    return out


def close(out: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert out.shape == expected.shape
    assert out.isfinite().all()
    assert (out.double() - expected).norm() <= tolerance * expected.norm()


GRIDS = [((5, 5), 1, 0), ((3, 7), 2, 1), ((1, 19), 0, 0), ((9, 2), 1, 0), ((6, 18), 1, 0), ((1, 1), 1, 0), ((4, 33), 0, 2)]


@pytest.mark.parametrize(("grid", "prefix", "suffix"), GRIDS)
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_plain_and_fused_equal_the_definition(grid: tuple[int, int], prefix: int, suffix: int, reach: int) -> None:
    layout = Layout(prefix + grid[0] * grid[1] + suffix, prefix, grid)
    q, k, v = random_qkv(2, 2, layout.tokens, 8)
    groups = drawn(2, layout, layout.ends + 3)
    expected = by_definition(q, k, v, groups, layout, reach, 0.5)
    close(windowed(q, k, v, groups, layout, reach, 0.5, None), expected, 1e-12)
    close(windowed(q.float(), k.float(), v.float(), groups, layout, reach, 0.5, None), expected)
    with cpu.without_kernels():
        close(windowed(q.float(), k.float(), v.float(), groups, layout, reach, 0.5, None), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_hidden_tokens_and_sizes(fused: bool) -> None:
    """A token of bias b counts as e^b of them, in the window and in its group; a hidden one is not there."""
    layout = Layout(1 + 6 * 7, 1, (6, 7))
    q, k, v = random_qkv(3, 2, layout.tokens, 8, torch.float32 if fused else torch.float64)
    bias = torch.linspace(-2, 3, layout.tokens, dtype=q.dtype).expand(3, -1).clone()
    hidden = torch.zeros(3, layout.tokens, dtype=torch.bool)
    hidden[1, 5:30] = True
    hidden[2] = True
    bias[hidden] = -INFINITY
    groups = drawn(3, layout, 5, hidden=hidden)
    out = windowed(q, k, v, groups, layout, 1, 0.4, bias)
    close(out, by_definition(q, k, v, groups, layout, 1, 0.4, bias), 5e-5 if fused else 1e-12)
    assert not out[2].any()


def test_a_window_as_large_as_the_grid_is_exact_attention() -> None:
    q, k, v = random_qkv(2, 2, 1 + 6 * 9, 8)
    site = Site(scale=0.4, tokens=Tokens(prefix=1, grid=(6, 9)))
    for window in (17, 19, 101):
        close(LocalClusters(landmarks=3, window=window)(q, k, v, site), softmax_attention(q, k, v, 0.4), 1e-12)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_as_many_groups_as_tokens_are_exact_attention(rows: int) -> None:
    q, k, v = random_qkv(2, 2, 2 + 4 * 7, 8)
    site = Site(scale=0.4, tokens=Tokens(prefix=2, grid=(4, 7)))
    for window in (1, 5):
        op = LocalClusters(KMeans(features="k"), landmarks=30, window=window, rows=rows)
        close(op(q, k, v, Site(**{**vars(site), "memo": {}})), softmax_attention(q, k, v, 0.4), 1e-12)


def test_identical_keys_give_the_mean_of_all_values() -> None:
    """Each token counts once, whatever the groups and windows: a token that is in both would weigh double."""
    q, k, v = random_qkv(1, 2, 1 + 8 * 8, 8)
    out = LocalClusters(landmarks=6, window=3)(q, k[:, :, :1].expand_as(k), v, Site(scale=0.4, tokens=Tokens(1, grid=(8, 8))))
    close(out, v.mean(2, keepdim=True).expand_as(v), 1e-12)


@pytest.mark.parametrize(("prefix", "suffix"), [(1, 0), (5, 0), (0, 0), (1, 2)])
def test_tokens_outside_the_grid_are_exact_as_queries(prefix: int, suffix: int) -> None:
    tokens = prefix + 36 + suffix
    q, k, v = random_qkv(2, 2, tokens, 8)
    out = LocalClusters(landmarks=9, window=3)(q, k, v, Site(scale=0.4, tokens=Tokens(prefix, suffix, (6, 6))))
    ends = [*range(prefix), *range(tokens - suffix, tokens)]
    torch.testing.assert_close(out[:, :, ends], softmax_attention(q, k, v, 0.4)[:, :, ends])


def test_as_many_rows_as_tokens_are_exact_attention() -> None:
    q, k, v = random_qkv(2, 2, 1 + 36, 8)
    out = LocalClusters(KMeans(features="k"), landmarks=4, rows=10, window=3)(
        q, k, v, Site(scale=0.4, tokens=Tokens(1, grid=(6, 6)))
    )
    close(out, softmax_attention(q, k, v, 0.4), 1e-12)


def test_fewer_landmarks_than_tokens_outside_the_grid_leave_one_group() -> None:
    """With 1 + 4 registers and landmarks=2 the patches still are a group, not lost."""
    q, k, v = random_qkv(1, 2, 5 + 36, 8)
    site = Site(scale=0.4, tokens=Tokens(5, grid=(6, 6)))
    few, one = (LocalClusters(landmarks=count)(q, k, v, Site(**{**vars(site), "memo": {}})) for count in (2, 6))
    assert torch.equal(few, one)


def test_the_typical_token_of_each_group_is_exact() -> None:
    q, k, v = random_qkv(2, 2, 1 + 8 * 8, 8)
    layout = Layout(65, 1, (8, 8))
    groups = KMeans(features="k")(q, k, v, Site(scale=1.0), 7, torch.arange(65) < 1)
    out = windowed(q, k, v, groups, layout, 1, 0.4, None)
    out = out + residual(out, q, k, v, groups, 0.4, None)
    rows = typical(k, groups)
    expected = softmax_attention(q, k, v, 0.4)
    for b in range(2):
        assert groups.assignment[b, rows[b]].tolist() == list(range(7))
        torch.testing.assert_close(out[b, :, rows[b]], expected[b, :, rows[b]])


def test_without_a_grid_the_neighbours_are_those_in_the_row() -> None:
    q, k, v = random_qkv(2, 2, 40, 8)
    op = LocalClusters(landmarks=5, window=3)
    alone, told = (op(q, k, v, Site(scale=0.4, tokens=Tokens(1, grid=grid))) for grid in (None, (1, 39)))
    assert torch.equal(alone, told)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    q, k, v = random_qkv(1, 2, 40, 8)
    with pytest.raises(Unsupported, match=r"grid of 5 x 5 cells does not hold 39 tokens \(block 0\)"):
        LocalClusters()(q, k, v, Site(scale=0.4, tokens=Tokens(1, grid=(5, 5))))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 4}, "odd number"),
        ({"landmarks": 0}, "landmarks=0"),
        ({"sampler": FarthestPoint()}, "groups of tokens"),
        ({"rows": -1}, "rows=-1"),
        ({"early_rows": 101}, "early_rows=101"),
        ({"early_window": 0}, "early_window=0: give an odd number"),
        ({"early": 1.5}, "early=1.5"),
    ],
)
def test_nonsense_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        LocalClusters(**options)


def test_early_blocks_after_the_first_have_a_window_and_rows_of_their_own() -> None:
    """Blocks 1 and 2 of 12, 1 of 8; with ``early=0`` none. The windows are those that the answers show."""
    q, k, v = random_qkv(1, 2, 1 + 8 * 8, 8)
    here, there = LocalClusters(landmarks=4, window=3, rows=1), LocalClusters(landmarks=4, window=7, rows=2)
    mixed = LocalClusters(landmarks=4, window=3, rows=1, early=0.25, early_window=7, early_rows=2)

    def special(op: LocalClusters, depth: int) -> list[int]:
        found = []
        for layer in range(depth):
            outs = [
                one(q, k, v, Site(scale=0.4, layer=layer, depth=depth, tokens=Tokens(1, grid=(8, 8))))
                for one in (op, *(replace(other, early=0.0) for other in (here, there)))
            ]
            assert torch.equal(outs[0], outs[1]) != torch.equal(outs[0], outs[2])
            found += [layer] if torch.equal(outs[0], outs[2]) else []
        return found

    assert special(mixed, 12) == [1, 2]
    assert special(mixed, 8) == [1]
    assert special(replace(mixed, early=0.0), 8) == []


def test_any_grouping_will_do() -> None:
    q, k, v = random_qkv(1, 2, 37, 8)
    for sampler in (SegmentMeans(), KMeans(features="qk"), DriftingKMeans(features="qk", steps=1)):
        assert LocalClusters(sampler, landmarks=4)(q, k, v, Site(scale=0.4, tokens=Tokens(1, grid=(6, 6)))).isfinite().all()


def test_groups_drift_from_block_to_block() -> None:
    """The second block takes its steps from the first one's groups; a pass of its own starts anew."""
    q, k, v = random_qkv(2, 2, 50, 8)
    memo: dict = {}
    sampler = DriftingKMeans(steps=1)
    first = sampler(q, k, v, Site(scale=1.0, memo=memo), 6)
    second = sampler(v, q, k, Site(scale=1.0, layer=1, memo=memo), 6)
    x, free = q.mean(1, dtype=torch.float32), torch.ones(2, 50, dtype=torch.bool)
    expected = _lloyd(x - x.mean(1, keepdim=True), first.assignment, 6, 1, ~free, free)
    assert torch.equal(second.assignment, expected)
    assert not torch.equal(second.assignment, first.assignment)
    assert not torch.equal(second.assignment, sampler(v, q, k, Site(scale=1.0, layer=1), 6).assignment)


def test_what_a_later_block_hides_leaves_its_group() -> None:
    """Tokens hidden from the second block on have no influence there, whatever they hold; those shown again have a group."""
    q, k, v = random_qkv(1, 2, 50, 8)
    hidden = (torch.arange(50) % 3 == 0)[None]
    found = []
    for value in (0.0, 50.0):
        memo: dict = {}
        sampler = DriftingKMeans()
        sampler(q, k, v, Site(scale=1.0, memo=memo), 6)
        other = torch.where(hidden[:, None, :, None], value, v)
        found.append(sampler(q, other, v, Site(scale=1.0, layer=1, memo=memo), 6, None, hidden))
        assert (found[-1].assignment[hidden] == -1).all()
        assert (sampler(q, k, v, Site(scale=1.0, layer=2, memo=memo), 6).assignment >= 0).all()
    assert int(found[0].sizes.sum()) == 50 - int(hidden.sum())
    assert torch.equal(*(one.assignment[~hidden] for one in found))


@pytest.mark.parametrize(("grid", "reach"), [((14, 14), 2), ((5, 3), 1), ((1, 9), 4), ((37, 37), 2), ((2, 2), 7)])
def test_tiles_hold_every_cell_and_every_neighbour_once(grid: tuple[int, int], reach: int) -> None:
    cut = tiles(grid, reach, torch.device("cpu"))
    cells = grid[0] * grid[1]
    assert cut.queries.flatten()[cut.place].tolist() == list(range(cells))
    row, column = torch.arange(cells) // grid[1], torch.arange(cells) % grid[1]
    expected = ((row[:, None] - row).abs() <= reach) & ((column[:, None] - column).abs() <= reach)
    near, keys = (x.flatten(0, 1) for x in (cut.near, cut.keys[:, None].expand_as(cut.near)))
    for cell in range(cells):
        at = int(cut.place[cell])
        found = keys[at][near[at]].tolist()
        assert sorted(found) == expected[cell].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("width", [1, 16, 23, 64, 80])
@pytest.mark.parametrize("count", [1, 2, 15, 33])
def test_the_kernel_for_any_width_and_count(width: int, count: int) -> None:
    layout = Layout(1 + 4 * 20, 1, (4, 20))
    q, k, v = random_qkv(2, 2, layout.tokens, width, torch.float32)
    groups = drawn(2, layout, count + 1)
    assert cpu.serves(q, k, v)
    out = windowed(q, k, v, groups, layout, 2, width**-0.5, None)
    close(out, windowed(q.double(), k.double(), v.double(), groups, layout, 2, width**-0.5, None))


@pytest.mark.parametrize("side", [3, 5, 7, 9, 11])
def test_the_kernel_for_any_window_and_many_strips(side: int) -> None:
    layout = Layout(1 + 40 * 21, 1, (40, 21))
    q, k, v = random_qkv(1, 2, layout.tokens, 16, torch.float32)
    groups = drawn(1, layout, 9)
    out = windowed(q, k, v, groups, layout, side // 2, 0.25, None)
    close(out, windowed(q.double(), k.double(), v.double(), groups, layout, side // 2, 0.25, None))


@pytest.mark.parametrize("size", [1e-20, 1.0, 30.0, 1e3])
def test_logits_of_any_size(size: float) -> None:
    layout = Layout(1 + 9 * 9, 1, (9, 9))
    q, k, v = random_qkv(1, 2, layout.tokens, 16, torch.float32)
    groups = drawn(1, layout, 7)
    out = windowed(size * q, k, v, groups, layout, 1, 1.0, None)
    close(out, windowed(size * q.double(), k.double(), v.double(), groups, layout, 1, 1.0, None), 1e-5 * max(4.0, size))


def test_neither_batch_nor_threads_nor_layout_show() -> None:
    layout = Layout(1 + 24 * 24, 1, (24, 24))
    x = torch.randn(3, layout.tokens, 3, 2, 16, generator=torch.Generator().manual_seed(0)).permute(2, 0, 3, 1, 4)
    groups = drawn(3, layout, 12)
    expected = windowed(*x, groups, layout, 2, 0.25, None)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for part in (slice(0, 3), slice(1, 2)):
                some = Centroids(groups.assignment[part], groups.sizes[part])
                q, k, v = (t[part].contiguous() for t in x)
                assert torch.equal(windowed(q, k, v, some, layout, 2, 0.25, None), expected[part])
    finally:
        torch.set_num_threads(before)


def test_nan_shows() -> None:
    layout = Layout(1 + 6 * 6, 1, (6, 6))
    q, k, v = random_qkv(1, 2, layout.tokens, 16, torch.float32)
    groups = drawn(1, layout, 4)
    q[0, 0, 9, 3] = torch.nan
    out = windowed(q, k, v, groups, layout, 1, 0.25, None)
    assert out[0, 0, 9].isnan().all()
    assert out.isnan().sum() == 16


def test_the_operator_is_well_formed() -> None:
    layout = Layout(1 + 6 * 6, 1, (6, 6))
    q, k, v = random_qkv(2, 2, layout.tokens, 16, torch.float32)
    groups = drawn(2, layout, 4)
    sums = q[:, :, :4].contiguous()
    arguments = (q, k, v, sums, sums, groups.sizes.float(), groups.assignment, 1, 6, 6, 1, 0.25, torch.ones(2, 37))
    torch.library.opcheck(cpu_local.windowed, arguments, test_utils=("test_schema", "test_faketensor"))


def test_gradients_are_those_of_the_definition() -> None:
    layout = Layout(1 + 3 * 4, 1, (3, 4))
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 1, layout.tokens, 4))
    groups = drawn(1, layout, 3)
    assert torch.autograd.gradcheck(lambda *x: windowed(*x, groups, layout, 1, 0.5, None), (q, k, v))


def test_work_grows_with_the_tokens_not_their_square() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def counted(side: int) -> int:
        q, k, v = random_qkv(1, 1, 1 + side * side, 16, torch.float32)
        with cpu.without_kernels(), FlopCounterMode(display=False) as counter:
            LocalClusters(landmarks=8)(q, k, v, Site(scale=0.25, tokens=Tokens(1, grid=(side, side))))
        return counter.get_total_flops()

    assert counted(32) < 4.6 * counted(16)
