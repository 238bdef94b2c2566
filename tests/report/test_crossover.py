"""The crossover: from how many tokens on an approximation is the faster one, in a sentence and in the title of a sweep."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fna.report.crossover import crossing, crossovers
from fna.report.results import load
from fna.report.sweep import summarise
from fna.report.words import plain
from tests.report.made_up_results import result, write_run

SIZES = {224: 256, 448: 1024, 896: 4096, 1344: 9216}  # px: tokens


def made(folder: Path, speeds, half: float = 0.0, **changes) -> list:
    for place, ((size, tokens), speed) in enumerate(zip(SIZES.items(), speeds, strict=False)):
        cost = {**result()["cost"], "speedup": {"median": speed, "ci": [speed / (1 + half), speed * (1 + half)]}}
        write_run(
            folder / str(place), result(image_size=[size, size], tokens=tokens, task="fidelity", metrics={}, cost=cost) | changes
        )
    return load(folder)


def found(runs):
    return crossovers(runs, lambda run: "FNA")["FNA"]


def test_halfway_in_the_logarithms_between_two_sizes() -> None:
    assert crossing([256, 1024], [0.5, 2.0]) == pytest.approx(512)
    assert crossing([256, 1024, 4096], [2.0, 0.5, 2.0]) == pytest.approx(2048)  # faster to the end counts
    assert crossing([256, 1024], [1.1, 2.0]) == 0
    assert crossing([256, 1024], [1.1, 0.9]) == math.inf


def test_the_sentence_says_the_tokens_their_interval_and_the_sizes_between(tmp_path: Path) -> None:
    sentence = found(made(tmp_path, [0.8, 1.25, 2, 3], half=0.1)).sentence("FNA")
    assert sentence == "FNA is the faster from about 510 tokens on [380, 690], between 224 px and 448 px"
    title = plain(summarise(load(tmp_path)).title)
    assert title == f"4 comparisons with full attention. {sentence}."


def test_an_interval_that_reaches_beyond_what_was_tried_says_so(tmp_path: Path) -> None:
    early = found(made(tmp_path / "d", [0.95, 1.02, 2, 3], half=0.06))
    assert early.sentence("FNA").startswith("FNA is the faster from about 700 tokens on [fewer, 1,100]")
    first = found(made(tmp_path / "a", [1.05, 1.2, 2, 3], half=0.1))
    assert first.sentence("FNA").startswith("FNA is faster at every size that was tried, from 256 tokens on, beyond doubt from ")
    never = found(made(tmp_path / "b", [0.5, 0.6, 0.7, 0.8]))
    assert never.sentence("FNA") == "FNA is faster at no size that was tried, up to 9,216 tokens"
    late = found(made(tmp_path / "c", [0.5, 0.6, 0.7, 1.05], half=0.1))
    assert late.sentence("FNA").endswith("more than were tried], between 896 px and 1344 px")


def test_a_size_timed_on_a_busy_machine_is_no_evidence(tmp_path: Path) -> None:
    runs = made(tmp_path, [0.8, 1.25, 2, 3])
    busy = {"quiet": False, "reasons": ["other processes took 1.0 of 2 cores"]}
    for run in runs[:2]:
        run.result["cost"]["measurement"] = busy
    assert found(runs).sentence("FNA") == "FNA is faster at every size that was tried, from 4,096 tokens on"
    assert crossovers(runs[:2], lambda run: "FNA") == {}


def test_one_size_has_no_crossover(tmp_path: Path) -> None:
    assert crossovers(made(tmp_path, [0.8]), lambda run: "FNA") == {}
