"""Words of the first hour that a newcomer stumbled over."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch

import fna
from fna.errors import UserError
from fna.models.open_clip import OpenClipModel


@pytest.mark.parametrize(("word", "meant"), [("sampler", "method"), ("landmarks", "count"), ("kep", "keep")])
def test_a_wrong_keyword_of_sample_landmarks_is_one_line_of_ours(word: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"has no argument {word}; did you mean {meant}\? .*return_valid"):
        fna.sample_landmarks(torch.randn(1, 9, 4), 3, **{word: None})


def test_an_option_that_a_method_has_not_is_told_what_the_function_takes_itself() -> None:
    model = timm.create_model("test_vit", img_size=96).eval()
    with pytest.raises(UserError, match=r"it has .*inverse.* fna\.swap itself takes layers, landmarks, sampler, mask"):
        fna.swap(model, "fna", foo=1)
    with pytest.raises(UserError, match=r"fna\.swap itself takes layers"):
        fna.swap(model, {"0-5": "fna"}, foo=1)
    q = torch.randn(1, 1, 9, 4)
    with pytest.raises(UserError, match=r"fna\.attention itself takes landmarks, sampler, scale"):
        fna.attention(q, q, q, foo=1)
    with pytest.raises(UserError, match=r"fna\.compare itself takes versus, metric"):
        fna.compare(model, [torch.randn(1, 3, 96, 96)], foo=1)


def test_few_tokens_are_warned_of_once_however_many_a_reducer_leaves() -> None:
    """Each block has fewer tokens than the one before, which made three sentences of one."""
    model = timm.create_model("test_vit", img_size=96).eval()
    with fna.swap(model, "fna", landmarks=500, layers="all", reduce="tome"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(torch.randn(1, 3, 96, 96))
    assert len({str(one.message) for one in caught if "landmarks=500" in str(one.message)}) == 1


@pytest.mark.parametrize(("name", "has"), [("ViT-B-32", "it has openai, "), ("ViT-M-32", "it has weights for it under no name")])
def test_weights_that_open_clip_has_not_are_told_with_what_to_give(name: str, has: str) -> None:
    with pytest.raises(UserError, match=rf"{has}.*for weights of your own give model\.pretrained=null model\.checkpoint=FILE\.$"):
        OpenClipModel(name, pretrained="nope").check()
