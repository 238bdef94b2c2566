"""The library as the README shows it: one call on q, k, v, a swap in a model, landmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import fna
from fna.errors import UserError
from fna.ops.contract import Site
from fna.ops.exact import Exact
from tests.ops.reference import nystrom, random_qkv, softmax_attention


def test_attention_is_the_method_of_that_name() -> None:
    q, k, v = random_qkv(2, 3, 40, 16, torch.float32)
    index = fna.sample_landmarks(q.mean(1), 8, keep=torch.arange(40) < 1)
    expected = nystrom(q, k, v, index, 0.25, steps=6)
    torch.testing.assert_close(fna.attention(q, k, v, "fna", landmarks=8).double(), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(fna.attention(q, k, v, Exact()).double(), softmax_attention(q, k, v, 0.25), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prefix", [-1, 41])
def test_a_prefix_is_a_number_of_tokens(prefix: int) -> None:
    q, k, v = random_qkv(1, 1, 40, 16)
    with pytest.raises(fna.UserError, match=f"prefix={prefix}: there are 40 tokens"):
        fna.attention(q, k, v, "fna", landmarks=8, prefix=prefix)


def test_swap_changes_the_model_and_gives_it_back() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        before = model(images)
        with fna.swap(model, "fna", layers="last-half", landmarks=16):
            changed = model(images)
        after = model(images)
    assert torch.equal(before, after)
    assert 0 < (changed - before).norm() < 0.5 * before.norm()


def test_a_count_that_is_text_is_called_text() -> None:
    with pytest.raises(fna.UserError, match="landmarks=64: this is text; give a count"):
        fna.attention(*torch.randn(3, 1, 2, 70, 8), "fna", landmarks="64")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", ["0", 1.5, None, True, -1])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    for use in (lambda: fna.swap(model, seed=seed), lambda: fna.attention(*torch.randn(3, 1, 2, 70, 8), seed=seed)):
        with pytest.raises(fna.UserError, match=r"^seed=.* give a whole number from 0 to 4294967295\.$"):
            use()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda v: None, "returned NoneType, no tensor"),
        (lambda v: (v, None), "returned tuple, no tensor"),
        (lambda v: v.mT, "returned shape (1, 2, 4, 6) for queries of shape (1, 2, 6, 4)"),
        (lambda v: v.double(), "returned torch.float64 for queries of torch.float32"),
    ],
)
def test_an_attention_of_ones_own_that_returns_something_else_is_refused(answer: Callable[[Tensor], Any], said: str) -> None:
    def own(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Any:
        return answer(v)

    with pytest.raises(UserError) as refused:
        fna.attention(*torch.randn(3, 1, 2, 6, 4), own)
    assert said in str(refused.value)


@pytest.mark.parametrize(("given", "said"), [({"grid": 14}, "grid=14: give"), ({"blocks": 5}, "blocks=5: give a list of modules")])
def test_a_number_in_place_of_a_pair_or_a_list_is_refused(given: dict[str, Any], said: str) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    with pytest.raises(UserError) as refused:
        fna.swap(model, **given)
    assert str(refused.value).startswith(said)
