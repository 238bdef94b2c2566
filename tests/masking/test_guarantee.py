"""Landmarks with CLS, massive and artifact tokens ignored, kept or dropped: all 27 cells."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from fna.masking.guarantee import CHOICES, Guaranteed
from fna.ops.contract import Site, Tokens, Unsupported
from fna.ops.landmarks import FarthestPoint, Random
from fna.ops.nystrom import FastNystrom

N, COUNT = 20, 6
Q, K, V = torch.randn(3, 2, 2, N, 4, generator=torch.Generator().manual_seed(0))


def site() -> Site:
    massive = torch.zeros(2, N, dtype=torch.bool)
    massive[0, [3, 4]] = massive[1, [7]] = True
    sinks = massive.clone()
    sinks[0, [9]] = sinks[1, [11, 12]] = True
    return Site(scale=0.5, tokens=Tokens(prefix=1), memo={("found", "massive"): massive, ("found", "sinks"): sinks})


@pytest.mark.parametrize(("cls", "massive", "artifact"), list(itertools.product(CHOICES, repeat=3)))
def test_kept_are_in_and_dropped_are_out(cls: str, massive: str, artifact: str) -> None:
    here = site()
    found = Guaranteed(FarthestPoint(), cls, massive, artifact)(Q, K, V, here, COUNT)
    members = torch.zeros(2, N, dtype=torch.bool).scatter_(1, found.index, True)
    big, sinks = here.memo["found", "massive"], here.memo["found", "sinks"]
    first = torch.zeros(2, N, dtype=torch.bool)
    first[:, 0] = True
    assert (members.sum(1) == COUNT).all()
    for choice, chosen in ((cls, first), (massive, big), (artifact, sinks & ~big)):
        if choice == "keep":
            assert members[chosen].all()
        if choice == "drop":
            assert not members[chosen].any()


def test_in_fast_nystrom_the_caller_does_not_keep_cls_against_it() -> None:
    here = replace(site(), memo=dict(site().memo))
    FastNystrom(sampler=Guaranteed(Random(), cls="drop"), landmarks=COUNT)(Q, K, V, here)
    drawn = next(value for key, value in here.memo.items() if key[0] == "landmarks")[1]
    assert not (drawn.index == 0).any()


def test_what_cannot_be_done_says_so() -> None:
    with pytest.raises(Unsupported, match="no block before it has looked"):
        Guaranteed(FarthestPoint(), massive="keep")(Q, K, V, Site(scale=0.5), COUNT)
    with pytest.raises(ValueError, match="ignore, keep, drop"):
        Guaranteed(FarthestPoint(), cls="maybe")
