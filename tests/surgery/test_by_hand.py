"""Attention written out in a module's own forward: found, changed without a word of description, refused where it is none."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fna
from fna.errors import UserError
from fna.ops.bias import Decomposed, Table
from fna.ops.contract import Site
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from fna.surgery.reads import facts
from fna.surgery.swap import swap_tower
from tests.surgery.test_reached import LIMIT, Own, Plain
from tests.surgery.zoo import images, liven


class Written(Plain):
    """16 tokens, two heads; ``attend`` is one of many ways to write it down."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 16, 16))
        self.heads = nn.Parameter(torch.rand(2, 1, 1) + 0.5)
        self.side = nn.Parameter(torch.randn(4, 4, 16))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.drop(((q * 0.25) @ k.mT).softmax(-1)) @ v


class Cosine(Written):
    """Swin v2: a temperature a head, positions, a mask of windows over images and heads apart, softmax by a module."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.heads.exp()
        logits = logits + self.table.unsqueeze(0)
        mask = torch.zeros(1, 16, 16).masked_fill(torch.ones(16, 16).triu(8) == 1, -100.0)
        logits = logits.view(logits.shape[0], 1, 2, 16, 16) + mask.unsqueeze(1).unsqueeze(0)
        return torch.matmul(self.drop(nn.Softmax(dim=-1)(logits.view(-1, 2, 16, 16))), v)


class Flat(Written):
    """ViTDet: images and heads on one axis, positions added for a key's row and for its column, weights in float32."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        logits = torch.bmm(q * 0.25, k.transpose(1, 2))
        told = torch.einsum("bhwc,hkc->bhwk", q.view(-1, 4, 4, 16), self.side)
        logits = logits.reshape(-1, 4, 4, 4, 4)
        logits += told[..., None]
        logits = (logits + told[..., None, :]).reshape(-1, 16, 16)
        return torch.bmm(F.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype), v).unflatten(0, (-1, 2))


class Causal(Written):
    """ImageGPT: the lowest number there is, in place of a logit that is not to be seen."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = (q @ k.mT) / torch.tensor(4.0)
        logits = torch.where(torch.ones(16, 16, dtype=torch.bool).tril(), logits, torch.finfo(logits.dtype).min)
        weights = F.softmax(logits.masked_fill(torch.eye(16) + torch.eye(16).roll(3, 1) > 2, -1e9), dim=-1)
        return weights.type(v.dtype) @ v


class Few(Written):
    """PVT: keys fewer than queries."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k[:, :, ::4].mT * 0.25).softmax(dim=-1) @ v[:, :, ::4]


class Talking(Written):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = (q @ k.mT).permute(0, 2, 3, 1) @ self.heads[..., 0].expand(2, 2)
        return logits.permute(0, 3, 1, 2).softmax(-1) @ v


class Linear(Written):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.softmax(-1) @ (k.softmax(-2).mT @ v)


class Channels(Written):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 4, 1)
        return self.out(((q @ k.mT).softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2))


class InPlace(Written):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = q @ k.mT
        logits[..., 0] = 0
        return logits.softmax(-1) @ v


class Behind(Written):
    """Writes into a view of its logits and goes on with them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = q @ k.mT
        view = logits.view(-1, 1, 2, 16, 16)
        view += self.table
        return logits.softmax(-1) @ v


class Telling(Written):
    """Keeps its weights for who wants them."""

    weights: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.weights = (q @ k.mT * 0.25).softmax(-1)
        return self.weights @ v


def net(made: type[Written]) -> nn.Module:
    torch.manual_seed(0)
    return Own(made).eval()


@torch.inference_mode()
@pytest.mark.parametrize("made", [Written, Cosine, Flat, Causal, Few, Telling])
def test_exact_equals_stock(made: type[Written]) -> None:
    model, x = net(made), images()
    stock = model(x)
    with fna.swap(model, "exact", layers="all") as swap:
        torch.testing.assert_close(model(x), stock, atol=1e-5, rtol=0)
        assert swap._run.called == {0, 1, 2}
    assert torch.equal(model(x), stock)


@torch.inference_mode()
@pytest.mark.parametrize("made", [Written, Cosine, Flat])
def test_all_landmarks_equal_stock_and_few_do_not(made: type[Written]) -> None:
    model, x = net(made), images()
    stock = model(x)
    with swap_tower(model, dict.fromkeys(range(3), LIMIT)):
        torch.testing.assert_close(model(x), stock, atol=1e-4, rtol=0)
    with fna.swap(model, "fna", layers="all", landmarks=3, prefix=0):
        assert float((model(x) - stock).abs().max()) > 1e-4


@torch.inference_mode()
def test_images_and_heads_are_told_apart_and_positions_handed_over() -> None:
    seen: list[tuple[torch.Size, Site]] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        seen.append((q.shape, site))
        return Exact()(q, k, v, site)

    for made, positions in ((Cosine, Table), (Flat, Decomposed)):
        seen.clear()
        model, x = net(made), images()
        with swap_tower(model, {1: spy}):
            model(x)
        ((shape, site),) = seen
        assert shape == (len(x), 2, 16, 16)
        assert isinstance(site.dense, positions)
        assert site.hidden is not None


@torch.inference_mode()
@pytest.mark.parametrize(
    ("made", "attn", "message"),
    [
        (Talking, "exact", r"block 0 \(Talking\): its attention is not softmax\(q k\^T\) v but goes to permute"),
        (Linear, "exact", r"block 0 \(Linear\): its attention is not softmax"),
        (Channels, "exact", r"block 0 \(Channels\) attends from channel to channel"),
        (InPlace, "exact", r"block 0 \(InPlace\) changes its attention in place by __setitem__"),
        (Behind, "exact", r"block 0 \(Behind\) changes its attention in place"),
        (Few, "fna", "needs as many queries as keys .block 0: 16 queries, 4 keys"),
        (Causal, "fna", "cannot honour 'dense'"),
    ],
)
def test_what_is_no_such_attention_is_refused_in_one_line(made: type[Written], attn: str, message: str) -> None:
    model, x = net(made), images()
    stock = model(x)
    with pytest.raises(UserError, match=message) as error, fna.swap(model, attn, layers="all", prefix=0):
        model(x)
    assert "\n" not in str(error.value)
    assert torch.equal(model(x), stock)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cait_xxs24_224", r"TalkingHeadAttn\): its attention is not"),
        ("xcit_nano_12_p8_224", r"XCA\) attends from channel to channel"),
    ],
)
def test_timms_talking_heads_and_cross_covariance(name: str, message: str) -> None:
    model = timm.create_model(name, depth=1, img_size=64).eval()
    blocks = [module for module in model.modules() if facts(module).by_hand and type(module).__name__ != "ClassAttn"]
    with pytest.raises(UserError, match=message), fna.swap(model, "exact", blocks=blocks[:1], layers="all"):
        model(torch.zeros(1, 3, 64, 64))


def test_weights_are_not_given_and_not_dropped_at_random() -> None:
    model, x = net(Telling), images()
    with torch.inference_mode(), fna.swap(model, "exact", layers="all"):
        model(x)
        with pytest.raises(UserError, match=r"block 0 \(Telling\) is changed by fna and has no attention weights to give"):
            model.layers[0].weights.sum()
    model = net(Written).train()
    with pytest.raises(UserError, match="drops attention weights at random"), fna.swap(model, "exact", layers="all"):
        model(x)


class Largest(TorchDispatchMode):
    """The most numbers in memory that an operator gave."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [part.untyped_storage().nbytes() // part.element_size() for part in tree_leaves(out) if isinstance(part, Tensor)]
        self.most = max(self.most, *found, 0)
        return out


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["SamVisionModel", "VitDetModel"])
@pytest.mark.parametrize("asked", ["sdpa", "eager"])
def test_positions_by_rows_and_columns_are_never_added_up(kind: str, asked: str) -> None:
    """4,096 bytes a token of a 32 x 32 grid are a whole table of one head; two columns of 32 are what is needed."""
    side, shared = 32, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 256}
    if kind == "VitDetModel":
        config = transformers.VitDetConfig(**shared, window_block_indices=[0], window_size=4, use_relative_position_embeddings=True)
    else:
        config = transformers.SamVisionConfig(
            **shared, global_attn_indexes=[1], window_size=4, mlp_dim=32, output_channels=16, attn_implementation=asked
        )
    torch.manual_seed(0)
    model = liven(getattr(transformers, kind)(config))
    x = torch.randn(1, 3, 256, 256)
    with Largest() as largest:
        stock = model(x).last_hidden_state
    assert largest.most >= side**4
    for attn, most in (("exact", None), (FastNystrom(landmarks=8), side**4 / 4)):
        with fna.swap(model, attn, layers="all"), Largest() as changed:
            out = model(x).last_hidden_state
        assert most is None or changed.most < most
        if attn == "exact":
            torch.testing.assert_close(out, stock, atol=2e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_is_not_multiplied_out_is_not_in_memory() -> None:
    model, x = net(Written), images(size=256)[:1]
    with Largest() as stock:
        model(x)
    with fna.swap(model, "fna", layers="all", landmarks=8, prefix=0), Largest() as changed:
        model(x)
    assert stock.most >= 2 * 1024**2
    assert changed.most < 1024**2 / 4


def test_gradients_flow() -> None:
    model, x = net(Cosine), images()
    model(x).sum().backward()
    stock = model.layers[0].table.grad.clone()
    model.zero_grad()
    with fna.swap(model, "exact", layers="all"):
        model(x).sum().backward()
    torch.testing.assert_close(model.layers[0].table.grad, stock, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_compiled_model_runs_such_a_block_outside_its_graph() -> None:
    model, x = net(Cosine), images()
    stock = model(x)
    with fna.swap(model, "exact", layers="all"):
        torch.testing.assert_close(torch.compile(model, backend="eager")(x), stock, atol=1e-5, rtol=0)
