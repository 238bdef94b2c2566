"""What every reducer promises, run over every YAML in conf/reduce and in the folders of FNA_CONF_DIR: all are tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import fna
from fna.configs import choices, instantiate, load_option
from fna.errors import UserError
from fna.masking.strategy import Masking
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.exact import Exact
from fna.ops.landmarks import FarthestPoint
from fna.ops.nystrom import FastNystrom
from fna.surgery.probe import recording
from fna.surgery.reduce import Place, check_reducer
from fna.surgery.smaller import Resize
from fna.surgery.swap import Swap, current_swap
from fna.surgery.variant import Variant, exact
from tests.surgery.zoo import DEPTH, fresh, images, run, zoo

NAMES = sorted(set(choices("reduce")) - {"none"})
FAMILIES = ["timm", "timm_registers", "open_clip", "open_clip_custom", "hf_clip", "hf_dinov2_registers"]
IDLE = {"r": 0, "keep": 1.0, "scale": 1.0}  # what of a reducer's knobs makes it do nothing
NEEDS_A_KNOB = "needs a field r (0 does nothing), keep or scale (1 does nothing), by which it is held against exact attention"
NEEDS_A_BLOCK = (
    f"changes nothing in models of {DEPTH} blocks and 8 x 8 patches: let the blocks that it acts in follow place.depth, as a share "
    "of it, and act on 64 patches with the values of its YAML"
)
MASKS = [Masking(detect=1, first=0, blocks=2), Masking(tokens="massive", rule="mean_sigma", detect=1, blocks=2)]
SIZE = 64  # pixels: 8 x 8 patches


def made(name: str, **options: Any) -> Any:
    """The reducer of that name; of its knobs those that it has."""
    node = load_option("reduce", name)
    seed = {"seed": 0} if "seed" in node else {}
    return instantiate(OmegaConf.merge(node, seed, {key: value for key, value in options.items() if key in node}))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Sized:
    """A tower for images of 64 px, with 8 x 8 patches."""
    return at_size(request.param)


@dataclass
class Sized:
    """A model and what else its forward has to be told at this size."""

    net: Any
    options: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        if self.options:
            return self.net(pixel_values=x, **self.options).last_hidden_state
        return run(self.net, x)


MADE: dict[str, Sized] = {}


def at_size(family: str) -> Sized:
    from fna.surgery.resolution import set_image_size

    if family not in MADE:
        net = fresh(family)
        MADE[family] = Sized(net, set_image_size(net, SIZE))
    return MADE[family]


def pixels(batch: int = 2, seed: int = 0) -> Tensor:
    return images(batch, seed, SIZE)


@dataclass(frozen=True, eq=False)
class Watching:
    """A reducer that notes what another one makes of each block."""

    reducer: Any
    seen: list[tuple[Tensor, Tensor, Tokens]]

    def __call__(self, x: Tensor, place: Place) -> tuple[Tensor, Tokens]:
        out, tokens = self.reducer(x, place)
        self.seen.append((x, out, tokens))
        return out, tokens


@torch.inference_mode()
def test_doing_nothing_is_exact_attention_to_the_bit_and_the_stock_model(name: str, model: Sized) -> None:
    known = load_option("reduce", name)
    assert set(IDLE) & set(known), f"reduce={name}: {NEEDS_A_KNOB}"
    x = pixels()
    stock = model(x)
    with exact(tuple(range(DEPTH))).on(model.net):
        expected = model(x)
    with Variant("", dict.fromkeys(range(DEPTH), Exact()), reduce=made(name, **IDLE)).on(model.net):
        assert torch.equal(model(x), expected)
    torch.testing.assert_close(expected, stock, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_it_changes_something_in_every_library_and_leaves_the_model_bit_for_bit(name: str, model: Sized) -> None:
    x = pixels()
    before, state = model(x), {key: value.clone() for key, value in model.net.state_dict().items()}
    with Variant("", {DEPTH - 1: Exact()}, reduce=made(name)).on(model.net):
        inside = model(x)
    assert inside.shape == before.shape  # whatever comes after the last block sees as many tokens as ever
    assert inside.isfinite().all()
    assert not torch.allclose(inside, before, atol=1e-4), f"reduce={name}: {NEEDS_A_BLOCK}"
    assert torch.equal(model(x), before)
    assert all(torch.equal(state[key], value) for key, value in model.net.state_dict().items())


@torch.inference_mode()
def test_batch_mates_do_not_matter(name: str, model: Sized) -> None:
    x = pixels(3)
    with Variant("", {0: Exact()}, reduce=made(name)).on(model.net):
        together = model(x)
        for image in range(3):
            torch.testing.assert_close(model(x[image : image + 1])[0], together[image], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_twice_is_the_same(name: str, model: Sized) -> None:
    with Variant("", {0: Exact()}, reduce=made(name)).on(model.net):
        assert torch.equal(model(pixels()), model(pixels()))


@torch.inference_mode()
def test_sizes_sources_and_versions(name: str) -> None:
    """Every original token is somewhere, CLS, registers and the count of originals stay, versions rise."""
    reducer = made(name)
    if isinstance(reducer, Resize):
        pytest.skip("no reducer of blocks: see tests/surgery/test_smaller.py")
    model, seen = at_size("timm_registers"), []
    with Variant("", {0: Exact()}, reduce=Watching(reducer, seen)).on(model.net):
        seen.clear()  # of what was tried on a tiny sequence
        model(pixels())
    assert len(seen) == DEPTH
    prefix, count, version = 5, 5 + 64, 0
    for x, out, tokens in seen:
        assert x.shape[1] == count
        assert tokens.version == version + (out.shape[1] < count)
        count, version = out.shape[1], tokens.version
        if not version:
            continue
        assert tokens.source is not None
        assert tokens.sizes is not None
        assert tokens.source.shape == (2, 5 + 64)
        counted = torch.stack([source.bincount(minlength=count) for source in tokens.source])
        assert torch.equal(counted.float(), tokens.sizes)
        assert (tokens.sizes > 0).all()
        assert torch.equal(tokens.source[:, :prefix], torch.arange(prefix).expand(2, -1))
        assert (tokens.sizes[:, :prefix] == 1).all()
        assert torch.equal(out[:, :prefix], x[:, :prefix])
    assert version > 0


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(name: str, dtype: torch.dtype) -> None:
    model = fresh("timm").to(dtype)
    full = run(model, images().to(dtype))
    with Variant("", {0: Exact()}, reduce=made(name, r=2, keep=0.75)).on(model):
        out = run(model, images().to(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert out.shape == full.shape


def test_gradients_reach_the_image(name: str) -> None:
    model, x = zoo("timm"), images().requires_grad_()
    with Variant("", {0: Exact()}, reduce=made(name, r=2, keep=0.75)).on(model):
        run(model, x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    model.zero_grad()


@torch.inference_mode()
def test_tiny_sequences_and_an_empty_batch(name: str) -> None:
    """2 x 2 patches, where hardly anything is left to merge; no image at all."""
    small, other = fresh("timm_registers"), zoo("timm")
    reducer = made(name, r=500, keep=0.5, scale=0.5)
    with Variant("", {0: Exact()}, reduce=reducer).on(small):
        assert run(small, images(size=16)).isfinite().all()
    with Variant("", {0: Exact()}, reduce=reducer).on(other):
        assert run(other, images()[:0]).shape[0] == 0


@torch.inference_mode()
def test_it_composes_with_landmarks(name: str) -> None:
    """Landmarks are drawn anew for every version of the tokens; the result stays near that of exact attention with the reducer."""
    reducer, x = made(name), pixels()
    model = at_size("timm")
    fast = FastNystrom(landmarks=30, sampler=FarthestPoint())
    with Variant("", dict.fromkeys(range(DEPTH), Exact()), reduce=reducer).on(model.net):
        expected = model(x)
    drawn: list[tuple[int, int]] = []

    def note(memo: dict[Any, Any]) -> None:
        drawn.extend((key[2], key[3]) for key in memo if isinstance(key, tuple) and key[0] == "landmarks")

    with Variant("", dict.fromkeys(range(DEPTH), fast), reduce=reducer).on(model.net, on_end=note):
        out = model(x)
    assert (out - expected).norm() < 0.5 * expected.norm()
    versions = {version for version, _ in drawn}
    assert len(drawn) == len(versions)
    assert len({count for _, count in drawn}) == len(versions)
    if not isinstance(reducer, Resize):
        assert versions >= {1}


@torch.inference_mode()
@pytest.mark.parametrize(
    "mask", [Masking(detect=1, first=0, blocks=2), Masking(tokens="massive", rule="mean_sigma", detect=1, blocks=2)]
)
def test_it_composes_with_masks(name: str, mask: Masking) -> None:
    """Found on what is left at the block that looks, taken away from what is left later."""
    model = at_size("timm")
    with Variant("", {2: Exact()}, mask=mask, reduce=made(name)).on(model.net):
        together = model(pixels(3))
        assert together.isfinite().all()
        torch.testing.assert_close(model(pixels(3)[1:2])[0], together[1], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_every_block_can_be_looked_at_over_the_tokens_of_the_image(name: str) -> None:
    model, reducer = at_size("timm"), made(name)
    if isinstance(reducer, Resize):
        pytest.skip("refused: see tests/surgery/test_smaller.py")
    found: list[dict[str, Tensor]] = []
    with (
        Variant("", {0: Exact()}, reduce=reducer).on(model.net),
        recording(model.net, found.append, streams=("entering", "leaving"), calls=("cls_gives",)),
    ):
        model(pixels())
    assert found[0]["leaving"].shape == found[0]["entering"].shape == (2, DEPTH, 65)
    torch.testing.assert_close(found[0]["cls_gives"].sum(-1), torch.ones(2, DEPTH))


@torch.inference_mode()
def test_a_swap_of_the_library_takes_its_name(name: str) -> None:
    if name == "random_drop":
        pytest.skip("its seed follows the root knob")
    model = zoo("timm")
    with fna.swap(model, "exact", reduce=name):
        assert isinstance(current_swap(model), Swap)
        assert run(model, images()).isfinite().all()


@pytest.mark.parametrize("family", ["eva", "eva_dinov3", "open_clip_sequence_first"])
def test_what_cannot_compose_says_so_in_a_line_and_leaves_the_model_alone(name: str, family: str) -> None:
    reducer, model = made(name), zoo(family)
    if isinstance(reducer, Resize):
        pytest.skip("works there")
    with torch.inference_mode():
        before = run(model, images())
        with pytest.raises(UserError, match=r"rotary positions|sequence first") as refusal:
            Variant("", {0: Exact()}, reduce=reducer).swap(model)
        assert "\n" not in str(refusal.value)
        assert torch.equal(run(model, images()), before)


def test_an_attention_that_needs_what_a_reducer_takes_is_refused_before_weights_are_loaded() -> None:
    @dataclass(frozen=True)
    class OnGrid:
        def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
            if site.tokens.grid is None:
                raise Unsupported("OnGrid needs a grid: use attn=exact.")
            return v

    Variant("", {0: OnGrid()}).check(DEPTH)
    Variant("", {0: OnGrid()}, reduce=made("cubist")).check(DEPTH)
    with pytest.raises(UserError, match="OnGrid needs a grid"):
        Variant("", {0: OnGrid()}, reduce=made("tome")).check(DEPTH)


def test_who_asks_cls_needs_one() -> None:
    from fna.surgery.blocks import find_tower

    with pytest.raises(UserError, match="no CLS token"):
        check_reducer(find_tower(zoo("hf_siglip")), made("evit"))
    check_reducer(find_tower(zoo("hf_siglip")), made("tome"))


@torch.inference_mode()
def test_merged_tokens_weigh_by_their_size() -> None:
    """An image of patches that are all alike: merged with sizes in the logits it gives what the stock model does."""
    model = fresh("timm_map_pool")
    model.pos_embed.zero_()
    x = images()[:, :, :1, :1].expand(-1, -1, 32, 32).contiguous()
    stock = run(model, x)
    sized, bare = (Variant("", {0: Exact()}, reduce=made("tome", r=5, proportional=on)) for on in (True, False))
    with sized.on(model):
        torch.testing.assert_close(run(model, x), stock, rtol=1e-4, atol=1e-4)
    y = torch.cat([x[:, :, :16], -x[:, :, :16]], dim=2)  # two kinds: now the weights matter
    stock = run(model, y)
    with sized.on(model):
        torch.testing.assert_close(run(model, y), stock, rtol=1e-3, atol=1e-3)
    with bare.on(model):
        assert not torch.allclose(run(model, y), stock, atol=1e-2)


@pytest.mark.parametrize("family", ["eva", "eva_dinov3", "timm"])
def test_a_model_that_saw_smaller_images_in_inference_mode_can_be_trained_afterwards(family: str) -> None:
    """Rotary tables are made anew for the size, and again when it is given back: as plain tensors, which autograd takes."""
    model = fresh(family)
    with torch.inference_mode(), fna.swap(model, "exact", layers="all", reduce=Resize(0.75)):
        run(model, images())
    run(model, images()).square().sum().backward()
    assert all(not buffer.is_inference() for buffer in model.buffers())
