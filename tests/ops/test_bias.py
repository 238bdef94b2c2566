"""Relative positions: each form says what the whole table says, and methods that take them equal softmax in the limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fna.ops.bias import Decomposed, Indexed, PairBias, Table, rows_of
from fna.ops.centroids import KMeans
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.exact import RUN, Exact, exact_rows
from fna.ops.kernels import cpu
from fna.ops.local import LocalClusters
from fna.ops.nystrom import FastNystrom
from fna.ops.nystromformer import Nystromformer
from fna.ops.plus import ClusterNystrom
from fna.ops.pooled_kv import PooledKeys
from fna.ops.rows import attention_rows
from fna.ops.subset import Subset
from fna.ops.window import Window
from tests.ops.reference import random_qkv, softmax_attention

GRID = (4, 7)
N = GRID[0] * GRID[1]


@pytest.fixture(autouse=True, params=["kernels", "plain"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    with cpu.without_kernels() if request.param == "plain" else nullcontext():
        yield


def forms(batch: int, heads: int, dtype: torch.dtype) -> dict[str, tuple[PairBias, Tensor]]:
    """Each form and the table [B or 1, H or 1, N, N] that it stands for."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    own, shared = draw(batch, heads, N, N), draw(1, 1, N, N)
    table, places = draw(40, heads), torch.randint(40, (N, N), generator=generator)
    down, across = draw(batch, heads, N, GRID[0]), draw(batch, heads, N, GRID[1])
    return {
        "table": (Table(own), own),
        "shared table": (Table(shared), shared),
        "indexed": (Indexed(table, places), table[places].permute(2, 0, 1)[None]),
        "decomposed": (Decomposed(down, across), (down[..., None] + across[..., None, :]).flatten(-2)),
    }


FORMS = ["table", "shared table", "indexed", "decomposed"]


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_columns_are_those_of_the_whole(form: str) -> None:
    bias, whole = forms(2, 3, torch.float64)[form]
    assert bias.tokens == N
    index = torch.tensor([[3, 0, N - 1], [5, 5, 9]])
    for name, table in (("rows", whole), ("columns", whole.mT)):
        expected = torch.stack([table[min(b, len(table) - 1)][:, index[b]] for b in range(2)])
        found = getattr(bias, name)(index)
        found = found if name == "rows" else found.mT
        torch.testing.assert_close(found.expand_as(expected), expected)
        same = getattr(bias, name)(index[0])
        torch.testing.assert_close(same if name == "rows" else same.mT, table[:, :, index[0]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_all_tokens_and_a_solve_is_softmax_attention_with_the_bias(
    form: str, batch: int, dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v = random_qkv(batch, 3, N, 16, dtype)
    bias, whole = forms(batch, 3, dtype)[form]
    site = Site(scale=0.25, dense=bias, tokens=Tokens(prefix=0, grid=GRID))
    expected = softmax_attention(q, k, v, 0.25, whole.double())
    for op in (
        Exact(),
        *(kind(landmarks=N, inverse="exact") for kind in (FastNystrom, Nystromformer, ClusterNystrom)),
        Subset(landmarks=N),
    ):
        torch.testing.assert_close(op(q, k, v, site).double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_landmark_rows_are_exact_with_hidden_keys_too(form: str) -> None:
    q, k, v = random_qkv(2, 3, N, 16)
    bias, whole = forms(2, 3, torch.float64)[form]
    keys = torch.rand(2, N, generator=torch.Generator().manual_seed(1)) > 0.3
    site = Site(scale=0.25, dense=bias, keys=keys, tokens=Tokens(prefix=2))
    out = FastNystrom(landmarks=9, inverse="exact")(q, k, v, site)
    expected = softmax_attention(q, k, v, 0.25, torch.where(keys[:, None, None], whole, float("-inf")))
    index = site.memo[next(iter(site.memo))][1].index[:, None, :, None].expand(-1, 3, -1, 16)
    torch.testing.assert_close(out.gather(2, index), expected.gather(2, index), atol=1e-8, rtol=0)


def test_few_landmarks_of_the_kernels_equal_the_plain_version() -> None:
    q, k, v = random_qkv(2, 3, N, 20, torch.float32)
    for bias, whole in forms(2, 3, torch.float32).values():
        out = FastNystrom(landmarks=11)(q, k, v, Site(scale=0.25, dense=bias, tokens=Tokens(prefix=1)))
        with cpu.without_kernels():
            plain = FastNystrom(landmarks=11)(q, k, v, Site(scale=0.25, dense=Table(whole), tokens=Tokens(prefix=1)))
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "share"), [(FastNystrom, 0.5), (Nystromformer, 0.9), (ClusterNystrom, 0.3), (LocalClusters, 0.3)])
def test_few_landmarks_are_nearer_to_softmax_with_the_positions_than_without(kind: type, share: float) -> None:
    """Tokens that are like their neighbours, and a bias that falls with the distance, as they are in images."""
    side = 8
    rows, columns = torch.arange(side**2) // side, torch.arange(side**2) % side
    waves = [
        turn(torch.pi * axis * often / side) for axis in (rows, columns) for often in (1, 2) for turn in (torch.sin, torch.cos)
    ]
    q, k, v = (0.3 * part + torch.stack(waves * 2, -1).double() for part in random_qkv(2, 3, side**2, 16))
    whole = -0.05 * ((rows[:, None] - rows).square() + (columns[:, None] - columns).square()).double()[None, None]
    expected = softmax_attention(q, k, v, 0.25, whole)
    site = {"scale": 0.25, "tokens": Tokens(prefix=0, grid=(side, side))}
    errors = [float((kind(landmarks=16)(q, k, v, Site(**site, dense=bias)) - expected).norm()) for bias in (Table(whole), None)]
    assert errors[0] < share * errors[1]


@pytest.mark.parametrize("form", FORMS)
def test_tiles_are_those_of_the_whole(form: str) -> None:
    bias, whole = forms(2, 3, torch.float64)[form]
    queries, keys = torch.tensor([[0, 5, 5], [27, 2, 9]]), torch.tensor([[1, 0, 27, 3], [4, 4, 8, 26]])
    torch.testing.assert_close(bias.tiles(queries, keys), whole[:, :, queries[:, :, None], keys[:, None]])


WHOLE = {"window": Window(window=99), "windows of the whole grid": LocalClusters(landmarks=4, window=15, early=0, rows=0)}
WHOLE |= {
    f"a group a token, {rows} exact rows": LocalClusters(KMeans(features="k"), landmarks=N, window=3, early=0, rows=rows)
    for rows in (0, 2)
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("prefix", [0, 7])
def test_windows_and_clusters_are_softmax_attention_with_the_bias_in_their_limits(form: str, name: str, prefix: int) -> None:
    q, k, v = random_qkv(2, 3, N, 16)
    bias, whole = forms(2, 3, torch.float64)[form]
    site = Site(scale=0.25, dense=bias, tokens=Tokens(prefix=prefix, grid=(GRID[0] - prefix // 7, GRID[1])))
    expected = softmax_attention(q, k, v, 0.25, whole)
    torch.testing.assert_close(WHOLE[name](q, k, v, site), expected, atol=1e-9, rtol=0)
    keys = torch.rand(2, N, generator=torch.Generator().manual_seed(1)) > 0.3
    expected = softmax_attention(q, k, v, 0.25, torch.where(keys[:, None, None], whole, float("-inf")))
    torch.testing.assert_close(WHOLE[name](q, k, v, replace(site, keys=keys, memo={})), expected, atol=1e-9, rtol=0)


def test_a_window_has_the_positions_of_the_keys_in_it() -> None:
    """By definition: every patch over those at most one cell away (moved inside at the border)."""
    q, k, v = random_qkv(2, 3, N, 16)
    bias, whole = forms(2, 3, torch.float64)["decomposed"]
    row, column = torch.arange(N) // GRID[1], torch.arange(N) % GRID[1]
    near = torch.stack([(at[None] - (at - 1).clamp(0, size - 3)[:, None]) for at, size in ((row, GRID[0]), (column, GRID[1]))])
    seen = ((near >= 0) & (near < 3)).all(0)
    out = Window(window=3)(q, k, v, Site(scale=0.25, dense=bias, tokens=Tokens(prefix=0, grid=GRID)))
    torch.testing.assert_close(out, softmax_attention(q, k, v, 0.25, torch.where(seen, whole, float("-inf"))), atol=1e-9, rtol=0)


def test_who_cannot_take_positions_says_who_does() -> None:
    q, k, v = random_qkv(1, 1, N, 8)
    site = Site(scale=0.3, layer=4, dense=Table(torch.zeros(1, 1, N, N)), tokens=Tokens(prefix=0, grid=GRID))
    who = "exact, fna, fna_plus, fna_local or window"
    with pytest.raises(Unsupported, match=rf"relative positions, 'dense' \(block 4\): use attn={who}"):
        PooledKeys(landmarks=4)(q, k, v, site)


@pytest.mark.parametrize("form", FORMS)
def test_exact_rows_and_weights_have_the_bias(form: str) -> None:
    q, k, v = random_qkv(2, 3, N, 16)
    bias, whole = forms(2, 3, torch.float64)[form]
    site, rows = Site(scale=0.25, dense=bias), torch.tensor([[0, 4, 9], [27, 1, 2]])
    expected = softmax_attention(q, k, v, 0.25, whole)
    where = rows[:, None, :, None].expand(-1, 3, -1, 16)
    torch.testing.assert_close(exact_rows(torch.zeros_like(q), q, k, v, rows, site).gather(2, where), expected.gather(2, where))
    torch.testing.assert_close(attention_rows(q, k, site, rows) @ v, expected.gather(2, where))


def test_a_decomposed_bias_is_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    side, made = 32, []
    q, k, v = random_qkv(1, 1, side * side, 8, torch.float32)
    down, across = torch.randn(2, 1, 1, side * side, side, generator=torch.Generator().manual_seed(0)).unbind()
    stock = Decomposed.rows
    monkeypatch.setattr(Decomposed, "rows", lambda self, index: made.append(index.shape[-1]) or stock(self, index))
    out = Exact()(q, k, v, Site(scale=0.3, dense=Decomposed(down, across)))
    whole = (down[..., None] + across[..., None, :]).flatten(-2)
    torch.testing.assert_close(out.double(), softmax_attention(q, k, v, 0.3, whole.double()), atol=1e-4, rtol=0)
    assert made == [RUN, RUN]
    FastNystrom(landmarks=16)(q, k, v, Site(scale=0.3, dense=Decomposed(down, across)))
    assert made[2:] == [16]


def test_rows_of_a_mask_that_broadcasts() -> None:
    index = torch.tensor([2, 5])
    assert rows_of(None, index, N) is None
    one = torch.randn(1, 1, 1, N)
    assert rows_of(one, index, N) is one
    mask = torch.randn(N, N)
    assert torch.equal(rows_of(mask, index, N), mask[index][None, None])
