"""Models that write: the times of their tokens and their cache on the page, and a headline that says where controls win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fna.report import words
from fna.report.day import read_day
from fna.report.page import write_page
from fna.report.results import load
from fna.report.sweep import best
from fna.report.view import metric_rows, time_bars
from fna.report.writing import beaten
from tests.report.made_up_results import result, write_run
from tests.report.test_table import printed


def pace(full: float, variant: float, ends: tuple[float, float]) -> dict[str, Any]:
    """Invented seconds of a token."""
    return {
        "seconds": {"full": full, "exact": full, "variant": variant},
        "speedup": {"median": full / variant, "ci": list(ends)},
    }


def contender(kv: str, score: float, megabytes: float) -> dict[str, Any]:
    metrics = {
        "vqa_accuracy": {"full": 80.0, "variant": score, "delta": score - 80, "ci": [score - 81, score - 79]},
        "kv_megabytes": {"full": 1.5, "variant": megabytes, "delta": megabytes - 1.5, "ci": [-1.2, -1.0]},
    }
    cost = result()["cost"] | {"first_token": pace(0.05, 0.04, (1.2, 1.3)), "further_token": pace(0.01, 0.0125, (0.7, 0.9))}
    return {"label": f"kv={kv}", "hash": kv, "status": "ok", "attn": "exact", "kv": kv, "metrics": metrics, "cost": cost}


def pair(a: str, b: str, delta: float) -> dict[str, Any]:
    """Of two policies, the interval 2 points wide."""
    return {"a": f"kv={a}", "b": f"kv={b}", "metrics": {"vqa_accuracy": {"delta": delta, "ci": [delta - 1, delta + 1]}}}


def run(folder: Path, *contenders: dict[str, Any], pairs: list[dict[str, Any]]) -> Path:
    shared = result(task="vqa", sampler="none", landmarks=None)
    return write_run(folder, shared | contenders[0] | {"contenders": list(contenders), "pairs": pairs})


def test_the_times_of_tokens_and_the_cache_stand_on_the_page(tmp_path: Path) -> None:
    folder = run(tmp_path, contender("fna", 80, 0.42), contender("am", 79, 0.42), pairs=[])
    page = write_page(folder).read_text()
    for piece in ("cache MB", "0.42", "ms first token", "40.0", "ms further token", "12.5"):
        assert piece in page, piece
    text = printed(load(folder))
    assert "cache MB of full 1.50" in text  # said once for all
    assert "ms first token of full 50.0" in text
    alone = printed(contender("fna", 80, 0.42) | {"schema": 1})
    assert "1.25x [1.20, 1.30] against exact" in alone
    assert "ms further token" in alone
    assert "ms first token" not in printed(result())


def test_a_narrow_terminal_leaves_the_tokens_times_out_and_says_so(tmp_path: Path) -> None:
    """Runs that were timed apart, so that what full took stands in columns of its own."""
    for place, kv in enumerate(("fna", "am")):
        one = result(task="vqa", sampler="none", landmarks=None) | contender(kv, 80, 0.42)
        slow = 0.05 + place / 100
        write_run(tmp_path / kv, one | {"cost": one["cost"] | {"first_token": pace(slow, 0.04, (1.2, 1.3))}})
    assert "ms first token of full" in printed(load(tmp_path))
    text = printed(load(tmp_path), width=80)
    assert "no room here for" in text
    assert "ms first token of full" in text.partition("no room here for")[2]


def test_times_of_tokens_say_how_many_prompts_were_answered_at_once() -> None:
    """418 ms to the first token were those of a batch of 8, and nothing said so."""
    one = result(task="vqa") | contender("fna", 80, 0.42)
    assert "of 8 prompts answered at once" in printed(one | {"cost": one["cost"] | {"batch_size": 8}})
    assert "answered at once" not in printed(one | {"cost": one["cost"] | {"batch_size": 1}})


def test_a_policy_has_no_sampling_and_no_swapped_attention_to_bound_it() -> None:
    lines = printed(result(task="vqa") | contender("fna", 80, 0.42)).splitlines()
    assert not [line for line in lines if line.startswith(("sampling", "limit"))]
    assert [bar.name for bar in time_bars(result() | contender("fna", 80, 0.42))] == ["kv fna"]


def test_megabytes_have_no_place_on_the_axis_of_points() -> None:
    metrics = contender("fna", 80, 0.42)["metrics"]
    accuracy, cache = metric_rows(result(metrics=metrics), {key: [] for key in metrics})
    assert accuracy.bar is not None
    assert cache.bar is None


def test_the_closest_policy_is_not_the_one_whose_noise_went_up(tmp_path: Path) -> None:
    """At 0.0 with all answers alike one is nearer than at +1.7 with some of them changed."""
    for kv, delta, alike in (("near", 0.0, 100.0), ("lucky", 1.7, 96.0)):
        metrics = {"vqa_accuracy": {"full": 80.0, "variant": 80 + delta, "delta": delta, "ci": [-2.0, 5.0]}}
        one = result(task="vqa", samples=60) | contender(kv, 80, 0.42)
        write_run(tmp_path / kv, one | {"metrics": metrics, "fidelity": {"agreement": alike}})
    found = best(load(tmp_path))
    assert found is not None
    assert found[0].result["kv"] == "near"


def test_where_a_control_wins_the_headline_says_so(tmp_path: Path) -> None:
    contenders = [contender("fna", 80, 0.42), contender("random_kv", 79, 0.42), contender("fastv", 70, 0.8)]
    contenders += [contender("prumerge", 60, 0.2), contender("pool", 50, 0.42)]
    pairs = [pair("fna", "random_kv", -0.5), pair("random_kv", "fastv", -9), pair("random_kv", "prumerge", -19)]
    pairs += [pair("random_kv", "pool", -29), pair("fna", "pool", -30), pair("fastv", "pool", -20)]
    folder = run(tmp_path, *contenders, pairs=pairs)
    # Not over fna (a tie), nor over prumerge (which keeps less), nor over another control.
    assert beaten(load(folder)[0].result) == {"kv=random_kv": ["kv=fastv"], "kv=pool": []}
    assert words.plain(read_day(load(folder)).title).endswith("Controls win, with no more cache: kv=random_kv over kv=fastv.")
    assert "kv=random_kv over kv=fastv" in write_page(folder).read_text()


def test_where_no_control_wins_the_headline_says_that(tmp_path: Path) -> None:
    folder = run(tmp_path, contender("fna", 80, 0.42), contender("random", 70, 0.42), pairs=[pair("fna", "random", -10)])
    assert "No control wins" in words.plain(read_day(load(folder)).title)
    without = run(tmp_path / "other", contender("fna", 80, 0.42), contender("am", 79, 0.42), pairs=[pair("fna", "am", -1)])
    assert "control" not in words.plain(read_day(load(without)).title)


def test_a_control_that_is_the_best_is_called_one(tmp_path: Path) -> None:
    folder = run(tmp_path, contender("random_kv", 81, 0.42), contender("fna", 79, 0.42), pairs=[pair("random_kv", "fna", -2)])
    title = words.plain(read_day(load(folder)).title)
    assert "a control" in title
    assert "KV policy random_kv" in title
