"""What every attention promises, run over every YAML in conf/attn and in the folders of FNA_CONF_DIR.

A method added there is tested by being there: see `test_added_methods_are_tested` at the end.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from fna.api import attention
from fna.configs import build_attention, choices, load_option, summary
from fna.errors import UserError
from fna.ops.contract import Attention, Site, Tokens, Unsupported, probe
from fna.ops.kernels import cpu
from tests.ops.reference import random_qkv

NAMES = sorted(choices("attn"))
N, WIDTH = 26, 16
TOKENS = Tokens(prefix=1, grid=(5, 5))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True, params=["kernels", "plain"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the C++ kernels, where there is a compiler, and without."""
    with cpu.without_kernels() if request.param == "plain" else nullcontext():
        yield


@pytest.fixture
def op(name: str) -> Attention:
    return build_attention(name, landmarks=8)


def inputs(dtype: torch.dtype = torch.float32, batch: int = 3, **fields):
    """q, k, v and a maker of sites: a fresh memo each time, as for a forward pass of its own."""
    q, k, v = random_qkv(batch, 2, N, WIDTH, dtype)
    hidden = torch.randn(batch, N, 2 * WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    return (
        q,
        k,
        v,
        lambda **more: Site(
            **{"scale": WIDTH**-0.5, "layer": 7, "depth": 12, "tokens": TOKENS, "hidden": hidden, **fields, **more}
        ),
    )


def honoured(op: Attention, field: str, q, k, v, site: Site):
    """The output, or None where the op refuses the field properly: by its name and the block's."""
    try:
        return op(q, k, v, site)
    except Unsupported as refusal:
        message = str(refusal)
    assert field in message
    assert str(site.layer) in message
    assert "\n" not in message
    return None


@contextmanager
def allowed_to_refuse(what: str) -> Iterator[None]:
    """An op may say in one line that it does not do ``what``."""
    try:
        yield
    except Unsupported as refusal:
        if what not in str(refusal) or "\n" in str(refusal):
            raise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shape_dtype_and_finite(op: Attention, dtype: torch.dtype) -> None:
    q, k, v, site = inputs(dtype)
    out = op(q, k, v, site())
    assert out.shape == q.shape
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_deterministic_and_leaves_its_inputs_alone(op: Attention) -> None:
    q, k, v, site = inputs()
    copies = [t.clone() for t in (q, k, v)]
    first, second = op(q, k, v, site()), op(q, k, v, site())
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(copies, (q, k, v), strict=True))


def test_batch_mates_do_not_matter(op: Attention) -> None:
    q, k, v, site = inputs()
    together = op(q, k, v, site())
    hidden = site().hidden
    for b in range(len(q)):
        alone = op(q[b : b + 1], k[b : b + 1], v[b : b + 1], site(hidden=hidden[b : b + 1]))
        torch.testing.assert_close(alone, together[b : b + 1], atol=1e-5, rtol=1e-4)


def test_layout_in_memory_does_not_matter(op: Attention) -> None:
    q, k, v, site = inputs()
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    torch.testing.assert_close(op(*strided, site()), op(q, k, v, site()), atol=1e-5, rtol=1e-4)


def test_what_rounds_otherwise_gives_the_same(name: str) -> None:
    """Processors differ in the last bit: no choice may hang on it, as that between the two members of a group once did."""
    op, (q, k, v) = build_attention(name, landmarks=16), random_qkv(3, 2, 40, WIDTH)
    noise = 1 + 1e-7 * torch.randn(k.shape, generator=torch.Generator().manual_seed(2))
    first, second = (attention(q, keys, v, op) for keys in (k, k * noise))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_keys_honoured_or_refused(op: Attention) -> None:
    """What cannot be seen has no influence, whatever it holds; each image hides other tokens."""
    keys = torch.rand(3, N, generator=torch.Generator().manual_seed(2)) > 0.4
    keys[:, 0] = True
    q, k, v, site = inputs(keys=keys)
    out = honoured(op, "keys", q, k, v, site())
    if out is None:
        return
    hidden = ~keys[:, None, :, None]
    other_stream = torch.where(keys[..., None], site().hidden, 3.0)
    other = op(torch.where(hidden, 2.0, q), torch.where(hidden, -5.0, k), torch.where(hidden, 100.0, v), site(hidden=other_stream))
    torch.testing.assert_close(out.masked_fill(hidden, 0), other.masked_fill(hidden, 0), atol=1e-4, rtol=1e-4)


def test_an_image_with_nothing_to_see(op: Attention) -> None:
    keys = torch.ones(3, N, dtype=torch.bool)
    keys[1] = False
    q, k, v, site = inputs(keys=keys)
    out = honoured(op, "keys", q, k, v, site())
    assert out is None or out.isfinite().all()
    assert out is None or not out[1].any()


def test_key_bias_honoured_or_refused(op: Attention) -> None:
    """A bias that makes a weight vanish takes the token's value out; one that is zero changes nothing."""
    bias = torch.zeros(3, N)
    bias[:, 3::4] = -1e4
    q, k, v, site = inputs()
    out = honoured(op, "key_bias", q, k, v, site(key_bias=bias))
    if out is None:
        return
    other = op(q, k, torch.where(bias[:, None, :, None] < 0, 100.0, v), site(key_bias=bias))
    torch.testing.assert_close(out, other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(op(q, k, v, site(key_bias=torch.zeros(3, N))), op(q, k, v, site()), atol=1e-5, rtol=1e-4)


def test_causal_honoured_or_refused(op: Attention) -> None:
    q, k, v, site = inputs(causal=True)
    out = honoured(op, "causal", q, k, v, site())
    if out is None:
        return
    later = torch.arange(N)[:, None] >= 10
    other = op(q, torch.where(later, -5.0, k), torch.where(later, 100.0, v), site())
    torch.testing.assert_close(out[:, :, :10], other[:, :, :10], atol=1e-5, rtol=1e-4)


def test_dense_honoured_or_refused(op: Attention) -> None:
    dense = torch.zeros(1, 1, N, N)
    dense[..., :13, 13:] = float("-inf")
    q, k, v, site = inputs(dense=dense)
    out = honoured(op, "dense", q, k, v, site())
    if out is None:
        return
    other = op(q, k, torch.where(torch.arange(N)[:, None] >= 13, 100.0, v), site())
    torch.testing.assert_close(out[:, :, :13], other[:, :, :13], atol=1e-5, rtol=1e-4)


def test_fewer_queries_honoured_or_refused(op: Attention) -> None:
    q, k, v, site = inputs()
    out = honoured(op, "queries", q[:, :, :4], k, v, site())
    assert out is None or out.shape == (3, 2, 4, WIDTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["zeros", "identical", "huge logits", "one token", "two tokens"])
@pytest.mark.filterwarnings("ignore:landmarks=")
def test_hostile_input_stays_finite(op: Attention, kind: str, dtype: torch.dtype) -> None:
    q, k, v, site = inputs(dtype, tokens=Tokens(prefix=1))
    if kind == "zeros":
        q, k, v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    elif kind == "identical":
        q, k, v = (t[:, :, :1].expand_as(t) for t in (q, k, v))
    elif kind == "huge logits":
        q, k = q * 100, k * 100
    else:
        few = 1 if kind == "one token" else 2
        q, k, v = q[:, :, :few], k[:, :, :few], v[:, :, :few]
    hidden = site().hidden[:, : q.shape[2]]
    assert op(q, k, v, site(hidden=hidden)).isfinite().all()


def test_an_empty_batch_gives_an_empty_batch(op: Attention) -> None:
    """No image, with and without masks: ``[0, H, N, d]``, not an error."""
    q, k, v, site = inputs(batch=0)
    for keys in (None, torch.ones(0, N, dtype=torch.bool)):
        assert honoured(op, "keys", q, k, v, site(keys=keys)) is not None or keys is not None
        out = honoured(op, "keys", q, k, v, site(keys=keys))
        assert out is None or (out.shape == q.shape and out.dtype == q.dtype)


class Twice(torch.nn.Module):
    """Two blocks that share a memo, as in a model."""

    def __init__(self, op: Attention) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x ``[B, N, 2 d]``."""
        memo: dict = {}
        for layer in (7, 8):
            q = x.unflatten(-1, (2, -1)).transpose(1, 2)
            site = Site(scale=WIDTH**-0.5, layer=layer, depth=12, tokens=TOKENS, hidden=x, memo=memo)
            x = x + self.op(q, q.flip(2), q, site).transpose(1, 2).flatten(2)
        return x


@pytest.mark.filterwarnings("ignore")
def test_a_traced_graph_is_the_method_or_is_refused(op: Attention) -> None:
    """Landmarks are drawn once in it too, and from the images that it is then given, however many."""
    generator = torch.Generator().manual_seed(3)
    example, one, three = (torch.randn(b, N, 2 * WIDTH, generator=generator) for b in (1, 1, 3))
    model = Twice(op)
    with torch.no_grad():
        try:
            traced = torch.jit.trace(model, example, check_trace=False)
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert "torch.jit.trace" in refusal
            assert "\n" not in refusal
            return
        for x in (example, one, three):
            torch.testing.assert_close(traced(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_numbers_have_their_shape_or_are_refused(op: Attention) -> None:
    """Torch's own errors, of ``item()`` on meta tensors, say neither what was asked for nor what to do."""
    q, k, v, site = inputs()
    with allowed_to_refuse("the meta device"):
        out = op(q.to("meta"), k.to("meta"), v.to("meta"), site(hidden=site().hidden.to("meta")))
        assert (out.shape, out.dtype, out.device.type) == (q.shape, q.dtype, "meta")


@pytest.mark.filterwarnings("ignore")
def test_under_vmap_and_grad_the_method_is_the_same_or_is_refused(op: Attention) -> None:
    q, k, v, site = inputs(batch=2)
    hidden = site().hidden

    def of_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return op(q[None], k[None], v[None], site(hidden=hidden[None]))[0]

    with allowed_to_refuse("torch.vmap"):
        out = torch.func.vmap(of_one)(q, k, v, hidden)
        torch.testing.assert_close(out, op(q, k, v, site()), atol=1e-5, rtol=1e-4)
    grad = torch.func.grad(lambda v: op(q, k, v, site()).square().sum())(v)
    leaf = v.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(op(q, k, leaf, site()).square().sum(), leaf)[0], atol=1e-4, rtol=1e-3)


def test_a_mask_that_is_no_bool_tensor_is_refused(op: Attention) -> None:
    q, k, v, _ = inputs()
    for keys in (torch.zeros(3, N), torch.ones(3, N, dtype=torch.int64), torch.ones(N, dtype=torch.bool), [True] * N):
        with pytest.raises(UserError, match=r"keys must be bool \[3, 26\]"):
            attention(q, k, v, op, keys=keys)  # type: ignore[arg-type]


def test_nothing_is_kept_between_calls(op: Attention) -> None:
    q, k, v, site = inputs()
    before = op(q, k, v, site())
    fields = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
    op(q.flip(0)[:2], k.flip(0)[:2], v.flip(0)[:2], site(hidden=site().hidden[:2]))
    assert torch.equal(op(q, k, v, site()), before)
    assert fields == {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
    assert not any(isinstance(value, torch.Tensor) for value in vars(op).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        op.scale = 1.0


def test_memo_serves_later_layers(op: Attention) -> None:
    """A memo filled in one block is good in the next; it is never needed."""
    q, k, v, site = inputs()
    memo: dict = {}
    op(q, k, v, site(memo=memo))
    assert op(v, q, k, site(memo=memo, layer=8)).isfinite().all()
    assert torch.equal(op(q, k, v, site()), op(q, k, v, site()))


def test_gradients_flow(op: Attention) -> None:
    q, k, v, site = inputs()
    leaves = {"q": q.requires_grad_(), "k": k.requires_grad_(), "v": v.requires_grad_()}
    op(*leaves.values(), site()).square().sum().backward()
    dry = [name for name, leaf in leaves.items() if leaf.grad is None or not leaf.grad.isfinite().all()]
    assert not dry, f"no finite gradient reaches {', '.join(dry)}: the result has to depend on q, k and v, none of them detached"
    assert leaves["v"].grad.abs().sum() > 0


def test_under_autocast_the_output_keeps_its_dtype(op: Attention) -> None:
    q, k, v, site = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = op(q, k, v, site())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, op(q, k, v, site()), atol=0.3, rtol=0.1)


def test_probe_is_quiet(op: Attention) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(op, Site(scale=1.0))


def test_yaml_says_what_it_is_and_refuses_nonsense(name: str) -> None:
    assert summary(choices("attn")[name])
    node = load_option("attn", name)
    for key, value in {"landmarks": 0, "inverse": "guess", "steps": 0, "ridge": -1.0, "resample_every": -1}.items():
        if key in node:
            with pytest.raises(UserError, match=key):
                build_attention(name, **{key: value})
    with pytest.raises(UserError, match="no option"):
        build_attention(name, no_such_option=1)


TOYS = '''
from dataclasses import dataclass
from fna.ops.contract import refuse, same_tokens

@dataclass(frozen=True)
class Mean:
    """Every token gets the mean of all values."""
    fields: tuple = ("keys", "key_bias", "causal", "dense")
    def __call__(self, q, k, v, site):
        refuse(self, site, *self.fields)
        same_tokens(self, q, k, site)
        return v.mean(2, keepdim=True).expand_as(q).contiguous() + 0 * (q + k)
'''


def test_added_methods_are_tested(tmp_path: Path) -> None:
    """A file and a YAML in a folder of one's own: the honest toy and the README's pass all of the above, one that ignores ``keys``
    does not."""
    (tmp_path / "toys.py").write_text(TOYS)
    (tmp_path / "attn").mkdir()
    (tmp_path / "attn" / "toy_honest.yaml").write_text("# a mean\n_target_: toys.Mean\n")
    (tmp_path / "attn" / "toy_careless.yaml").write_text(
        "# a mean that ignores\n_target_: toys.Mean\nfields: [key_bias, causal, dense]\n"
    )
    root = Path(__file__).resolve().parents[2]
    section = (root / "README.md").read_text(encoding="utf-8").partition("\n## Add a method\n")[2]
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^ {7}.*\n|^\n)+", section, re.M) if block.strip()]
    (tmp_path / "written_down.py").write_text(blocks[0])
    (tmp_path / "attn" / "toy_written.yaml").write_text(blocks[1].replace("fna.ops.mine", "written_down"))
    chosen = ["-k", "toy_honest or toy_careless or toy_written", "-p", "no:cacheprovider", "-q", "-n0", "--tb=no", "-rfp"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", str(Path(__file__)), *chosen],
        env={**os.environ, "FNA_CONF_DIR": str(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    failed = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert failed, result.stdout + result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("PASSED") and "toy_written" in line]
    assert all("toy_careless" in line and ("nothing_to_see" in line or "test_keys_honoured" in line) for line in failed), (
        result.stdout
    )
