"""An attention of a decoder other than exact is refused before weights are loaded; what a run under a KV policy is called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from fna.errors import UserError
from fna.report import words
from fna.runner.suits import check_writer
from fna.runner.versus import Composed

LLAVA, CLIP = SimpleNamespace(abilities=frozenset({"answer"})), SimpleNamespace(abilities=frozenset({"classify", "patches"}))


def writer(attn: str, layers: Any = "last-half", model: Any = LLAVA) -> None:
    check_writer(Composed("", OmegaConf.create({"layers": layers}), {"attn": attn}), model, {"model": "llava"})


@pytest.mark.parametrize(("attn", "layers"), [("fna", "last-half"), ("exact", {"0-2": "exact", "3-5": "fna"})])
def test_a_decoder_refuses_what_is_not_causal(attn: str, layers: Any) -> None:
    with pytest.raises(UserError, match=r"^attn=fna: model=llava attends causally .* kv=fna"):
        writer(attn, layers)
    writer(attn, layers, CLIP)


def test_a_decoder_takes_exact_attention() -> None:
    writer("exact")


def test_a_run_with_a_cache_policy_alone_is_called_by_it() -> None:
    result = {"attn": "exact", "kv": "fna", "layers": [], "landmarks": None}
    assert words.subject(result) == "KV policy fna"
    assert words.called(result) == "kv fna"
