"""The C++ kernels for CPUs against float64, and what else they promise: neither batch nor threads show, one pool of threads."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from fna.configs import build_attention, choices
from fna.ops.contract import Site, Tokens
from fna.ops.farthest import _loop
from fna.ops.inverse import apply_inverse
from fna.ops.kernels import cpu
from fna.ops.nystrom import FastNystrom, fast_nystrom
from tests.ops.reference import newton_inverse, random_qkv, softmax_attention

pytestmark = pytest.mark.skipif(not cpu.built(), reason="no C++ compiler on this machine")
WIDTHS = (1, 16, 23, 64, 72, 130)
COUNTS = (1, 7, 16, 33, 64)
INFINITY = float("inf")


def side_by_side(batch: int, heads: int, tokens: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as views of one projection, as models hand them over."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(batch, tokens, 3, heads, width, generator=generator).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def close(out: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    assert out.shape == expected.shape
    assert out.isfinite().all()
    assert (out.double() - expected).norm() <= tolerance * expected.norm()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_short_attentions_equal_softmax_attention(width: int, count: int) -> None:
    q, k, v = side_by_side(2, 3, 150, width)
    few, scale = q[:, :, :count], 1.3 * width**-0.5
    close(cpu.few_queries(few, k, v, scale), softmax_attention(few, k, v, scale))
    close(cpu.few_keys(q, k[:, :, :count], v[:, :, :count], scale), softmax_attention(q, k[:, :, :count], v[:, :, :count], scale))


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 1024, 1025, 2049, 5000])
def test_any_number_of_tokens(tokens: int) -> None:
    """Across the sizes at which the work is cut: tiles of 64 keys, shares of 1,024, at most four of them; tasks of 256 queries."""
    q, k, v = side_by_side(1, 2, tokens, 16)
    marks_q, marks_k, marks_v = side_by_side(1, 2, 5, 16, seed=1)
    close(cpu.few_queries(marks_q, k, v, 0.25), softmax_attention(marks_q, k, v, 0.25))
    close(cpu.few_keys(q, marks_k, marks_v, 0.25), softmax_attention(q, marks_k, marks_v, 0.25))


def test_bias_and_hidden_keys() -> None:
    q, k, v = side_by_side(3, 2, 1500, 16)
    bias = torch.linspace(-2, 2, 1500).expand(3, -1).clone()
    bias[0, :700] = -INFINITY  # whole tiles
    bias[1, ::2] = -INFINITY
    few = q[:, :, :9]
    close(cpu.few_queries(few, k, v, 0.25, bias), softmax_attention(few, k, v, 0.25, bias[:, None, None]))
    close(
        cpu.few_keys(q, k[:, :, 690:710], v[:, :, 690:710], 0.25, bias[:, 690:710]),
        softmax_attention(q, k[:, :, 690:710], v[:, :, 690:710], 0.25, bias[:, None, None, 690:710]),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_a_bias_of_any_type(dtype: torch.dtype) -> None:
    q, k, v = side_by_side(2, 2, 100, 16)
    bias = torch.arange(100).remainder(3).expand(2, -1).to(dtype)
    expected = softmax_attention(q[:, :, :5], k, v, 0.25, bias[:, None, None].double())
    close(cpu.few_queries(q[:, :, :5], k, v, 0.25, bias), expected)
    close(cpu.few_keys(q[:, :, :5], k, v, 0.25, bias), expected)


def test_any_layout_of_the_queries() -> None:
    """Width not innermost, and rows that overlap: the result has a layout of its own."""
    _, k, v = side_by_side(2, 3, 100, 16)
    turned = torch.randn(2, 3, 16, 100).transpose(2, 3)
    sliding = torch.randn(5000).as_strided((2, 3, 10, 16), (400, 25, 1, 1))
    for q in (turned, sliding):
        close(cpu.few_keys(q, k[:, :, :7], v[:, :, :7], 0.25), softmax_attention(q, k[:, :, :7], v[:, :, :7], 0.25))
        close(cpu.few_queries(q[:, :, :9], k, v, 0.25), softmax_attention(q[:, :, :9], k, v, 0.25))


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    q, k, v = side_by_side(2, 2, 100, 16)
    bias = torch.zeros(2, 100)
    bias[0] = -INFINITY
    for out in (cpu.few_queries(q[:, :, :5], k, v, 0.25, bias), cpu.few_keys(q, k, v, 0.25, bias)):
        assert (out[0] == 0).all()
        assert (out[1] != 0).all()


@pytest.mark.parametrize("size", [1e-20, 1.0, 30.0, 1e4])
def test_logits_of_any_size(size: float) -> None:
    q, k, v = side_by_side(1, 2, 200, 16)
    few = size * q[:, :, :6]
    close(cpu.few_queries(few, k, v, 1.0), softmax_attention(few, k, v, 1.0), 1e-5 * max(1.0, size / 100))
    close(cpu.few_keys(size * q, k, v, 1.0), softmax_attention(size * q, k, v, 1.0), 1e-5 * max(1.0, size / 100))


def test_nan_stays_where_it_is_and_shows() -> None:
    q, k, v = (tensor.contiguous() for tensor in side_by_side(1, 2, 100, 16))
    q[0, 0, 3, 5] = torch.nan
    out = cpu.few_keys(q, k[:, :, :7], v[:, :, :7], 0.25)
    assert out[0, 0, 3].isnan().all()
    assert out.isnan().sum() == 16
    out = cpu.few_queries(q[:, :, :5], k, v, 0.25)
    assert out[0, 0, 3].isnan().all()
    assert out.isnan().sum() == 16
    q.view(torch.int32)[0, 0, 3, 5] = 0x7FC00001  # a NaN that carries something
    assert cpu.few_keys(q, k[:, :, :7], v[:, :, :7], 0.25)[0, 0, 3].isnan().all()
    k[0, 1, 50, 0] = torch.nan
    assert cpu.few_queries(q[:, :, :3], k, v, 0.25)[0, 1].isnan().all()


@pytest.mark.parametrize(("m", "width"), [(1, 1), (5, 16), (16, 64), (33, 23), (64, 64), (100, 64)])
@pytest.mark.parametrize("steps", [1, 2, 6, 9])
def test_newton_equals_the_printed_iteration(m: int, width: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(m)
    a = torch.randn(2, 2, m, m, generator=generator).softmax(-1)
    rhs = torch.randn(2, 2, m, width, generator=generator)
    expected = torch.stack([newton_inverse(x.double(), steps) for x in a.flatten(0, 1)]).view(a.shape) @ rhs.double()
    close(cpu.newton(a, rhs, steps), expected, 1e-4)


@pytest.mark.parametrize(("m", "width"), [(1, 1), (5, 16), (16, 64), (33, 23), (64, 64), (100, 64)])
@pytest.mark.parametrize("share", [1e-4, 1e-2])
def test_ridge_equals_the_normal_equations(m: int, width: int, share: float) -> None:
    generator = torch.Generator().manual_seed(m)
    a = (2 * torch.randn(2, 2, m, m, generator=generator)).softmax(-1)
    rhs = torch.randn(2, 2, m, width, generator=generator)
    wide = a.double()
    shift = share * wide.sum(-2).amax(-1)[..., None, None] * torch.eye(m)
    expected = torch.linalg.solve(wide.mT @ wide + shift, wide.mT @ rhs.double())
    assert float((cpu.ridge(a, rhs, share) - expected).norm() / expected.norm()) < 1e-7 / share


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("width", [5, 16, 64])
def test_group_sums_equal_the_product_with_membership(weighted: bool, width: int) -> None:
    x = side_by_side(2, 3, 70, width)[1]
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(-1, 9, (2, 70), generator=generator)
    weights = torch.rand(2, 70, generator=generator) if weighted else None
    member = (group[:, None] == torch.arange(9)[:, None]).double() * (1.0 if weights is None else weights[:, None].double())
    close(cpu.group_sums(x, group, 9, weights), member[:, None] @ x.double(), 1e-5)


@pytest.mark.parametrize(("tokens", "centres"), [(1, 1), (70, 5), (130, 33), (64, 160)])
def test_the_nearest_centre_is_the_first_among_equals_and_open(tokens: int, centres: int) -> None:
    """Whole numbers, so that equal distances are equal to the bit; half of the centres are there twice, a fifth is closed."""
    generator = torch.Generator().manual_seed(0)
    x, centre = (torch.randint(-3, 4, (3, n, 16), generator=generator).float() for n in (tokens, centres))
    centre[:, centres // 2 :] = centre[:, : centres - centres // 2].clone()
    size = centre.square().sum(-1).masked_fill(torch.rand(3, centres, generator=generator) < 0.2, float("inf"))
    size[2] = float("inf")
    found, distance = cpu.nearest(x, centre, size), size[:, None] - 2 * x @ centre.mT
    assert torch.equal(found[:2], distance[:2].argmin(-1))
    assert (found[2] == -1).all()


def test_newton_corrects_its_own_rounding() -> None:
    """Forty steps on a block of softmax rows: the true inverse, as far as float32 goes, not NaN."""
    q, k, v = random_qkv(1, 2, 48, 16, torch.float32)
    block = (q @ k.mT).softmax(-1)
    close(block.double() @ apply_inverse(block, v, steps=40).double(), v.double(), 1e-2)


@pytest.mark.parametrize(("rows", "tokens", "width", "count"), [(1, 1, 1, 1), (2, 40, 3, 40), (4, 600, 16, 50), (1, 2100, 65, 20)])
def test_points_equal_the_plain_selection(rows: int, tokens: int, width: int, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 5, (rows, tokens, width), generator=generator).float()
    assert torch.equal(cpu.farthest_points(x, count), _loop(x, count, None, None))
    allowed = torch.rand(rows, tokens, generator=generator) < 0.7
    allowed[:, 0] = True
    kept = allowed & (torch.rand(rows, tokens, generator=generator) < 0.05)
    found, expected = cpu.farthest_points(x, count, kept.T.contiguous().T, allowed), _loop(x, count, kept, allowed)
    supply = torch.arange(count) < allowed.sum(1, keepdim=True)
    assert torch.equal(found[supply], expected[supply])
    assert ((found >= 0) & (found < tokens)).all()


@pytest.mark.usefixtures("threads")
def test_neither_batch_nor_threads_show() -> None:
    q, k, v = side_by_side(3, 2, 2100, 24)
    op = FastNystrom(landmarks=20)
    expected = op(q, k, v, Site(scale=0.2, tokens=Tokens(prefix=1)))
    for count, batch in itertools.product((1, 2, 5), (slice(0, 3), slice(1, 2))):
        torch.set_num_threads(count)
        assert torch.equal(op(q[batch], k[batch], v[batch], Site(scale=0.2, tokens=Tokens(prefix=1))), expected[batch])


@pytest.mark.parametrize("name", sorted(choices("attn")))
def test_every_method_gives_the_same_without_kernels(name: str) -> None:
    """Whatever a method uses of them, hidden keys and log-sizes included."""
    q, k, v = side_by_side(2, 2, 65, 16)
    keys = torch.arange(65).expand(2, -1) < torch.tensor([[65], [50]])
    for fields in ({}, {"keys": keys}, {"key_bias": torch.linspace(-1, 1, 65).expand(2, -1)}):

        def run(fields: dict[str, Tensor] = fields) -> Tensor | None:
            site = Site(scale=0.25, tokens=Tokens(prefix=1, grid=(8, 8)), hidden=torch.ones(2, 65, 32), **fields)
            try:
                return build_attention(name, landmarks=8)(q, k, v, site)
            except ValueError:
                return None

        out = run()
        with cpu.without_kernels():
            expected = run()
        assert (out is None) == (expected is None)
        if out is not None and expected is not None:
            torch.testing.assert_close(out, expected, atol=2e-4, rtol=2e-4)


def test_gradients_and_other_types_take_the_plain_version() -> None:
    q, k, v = side_by_side(1, 2, 40, 16)
    assert cpu.serves(q, k, v)
    assert not cpu.serves(q.double(), k, v)
    assert not cpu.serves(q[:, :, :0], k, v)
    learnt = q.clone().requires_grad_()
    assert not cpu.serves(learnt, k, v)
    fast_nystrom(learnt, k, v, torch.arange(5)[None], scale=0.25).sum().backward()
    assert learnt.grad is not None
    assert learnt.grad.norm() > 0
    with torch.no_grad():
        assert cpu.serves(learnt, k, v)


def test_a_bias_that_is_learnt_and_forward_derivatives() -> None:
    q, k, v = side_by_side(1, 2, 40, 16)
    bias = torch.zeros(1, 40, requires_grad=True)
    fast_nystrom(q, k, v, torch.arange(5)[None], scale=0.25, key_bias=bias).square().sum().backward()
    assert bias.grad is not None
    assert bias.grad.norm() > 0
    with pytest.raises(NotImplementedError):  # torch's fused attention has no forward derivative; silence would be a zero
        torch.func.jvp(lambda x: fast_nystrom(x, k, v, torch.arange(5)[None], scale=0.25), (q,), (torch.ones_like(q),))


def test_operators_are_well_formed() -> None:
    """Fake versions agree with the real ones, nothing is changed in place: what torch.compile relies on."""
    q, k, v = side_by_side(2, 2, 70, 16)
    block = torch.rand(2, 2, 9, 9).softmax(-1)
    cases = [
        (cpu.few_queries, (q[:, :, :9], k, v, 0.25)), (cpu.few_keys, (q, k[:, :, :9], v[:, :, :9], 0.25, torch.zeros(2, 9))),
        (cpu.few_keys, (torch.randn(2, 2, 16, 70).transpose(2, 3), k[:, :, :9], v[:, :, :9], 0.25)),
        (cpu.newton, (block, v[:, :, :9], 6)), (cpu.farthest_points, (q.mean(1), 6)), (cpu.ridge, (block, v[:, :, :9], 1e-3)),
        (cpu.group_sums, (k, torch.arange(70).expand(2, -1) % 9, 9)), (cpu.nearest, (q.mean(1), k[:, 0, :9], torch.zeros(2, 9))),
    ]  # fmt: skip
    for operator, arguments in cases:
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_flops_are_those_of_the_plain_versions() -> None:
    q, k, v = side_by_side(2, 3, 80, 16)
    index = torch.arange(0, 80, 8).expand(2, -1)

    def counted() -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            fast_nystrom(q, k, v, index, scale=0.25)
        return counter.get_total_flops()

    out = counted()
    with cpu.without_kernels():
        assert out == counted()
    with FlopCounterMode(display=False) as counter:
        cpu.farthest_points(q[:, 0], 7)
    assert counter.get_total_flops() == 3 * 2 * 80 * 16 * 7


class _Attended(torch.utils.data.Dataset[Tensor]):
    """Items made with the kernels: item i is FNA on inputs of seed i."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        with torch.no_grad():
            out = fast_nystrom(*side_by_side(1, 2, 300, 16, seed=i), torch.arange(0, 300, 20)[None], scale=0.25)
        return out, torch.get_num_threads()


def test_in_the_workers_of_a_data_loader() -> None:
    """After a fork, and with the one thread that a worker has; results as here."""
    here = [_Attended()[i][0] for i in range(6)]  # the pool of threads is up before the fork
    for (out, threads), expected in zip(DataLoader(_Attended(), batch_size=None, num_workers=2, timeout=60), here, strict=True):
        assert threads == 1
        assert torch.equal(out, expected)


POOL = """
import os, torch
from fna.ops.kernels import cpu
torch.set_num_threads(3)
torch.randn(400, 400) @ torch.randn(400, 400); torch.randn(1 << 20).exp()
before = len(os.listdir("/proc/self/task"))
q = torch.randn(2, 4, 600, 16)
cpu.few_keys(q, q[:, :, :9], q[:, :, :9], 0.25); cpu.few_queries(q[:, :, :9], q, q, 0.25)
cpu.newton(torch.rand(2, 4, 9, 9), q[:, :, :9], 6); cpu.farthest_points(q[:, 0], 9)
cpu.ridge(torch.rand(2, 4, 9, 9), q[:, :, :9], 0.1); cpu.group_sums(q, torch.zeros(2, 600, dtype=torch.int64), 3)
cpu.nearest(q[:, 0], q[:, 0, :9], torch.zeros(2, 9))
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_are_those_of_torch() -> None:
    """One OpenMP in the process: a second pool would run beside the first and both beside a data loader."""
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "0"
