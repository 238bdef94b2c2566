"""The terminal table and table.md."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fna.report import words
from fna.report.decisions import decisions
from fna.report.results import load
from fna.report.sweep import CLOSEST, FASTEST, NOT_FASTER, TOO_FEW, best, label, summarise, varying
from fna.report.table import markdown, show, show_sweep, sweep_markdown, write_markdown
from tests.report.made_up_results import failed, result, retrieval, write_run


def printed(what: object, width: int = 200) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    (show if isinstance(what, dict) else show_sweep)(what, console)  # type: ignore[operator]
    return out.getvalue()


def test_one_result_shows_pairs_and_cost() -> None:
    text = printed(result())
    for piece in ("71.25", "71.05", "-0.20", "[-0.80, +0.40]", "96.40 %", "1.19x", "[1.17, 1.21] against exact", "12.2", "14.6"):
        assert piece in text, piece
    for piece in ("14.0 GFLOP", "0.80x of full", "480 MB", "3.1 %", "1.30x", "500 samples", "1,025 tokens"):
        assert piece in text, piece


def test_random_weights_are_marked_beside_every_metric() -> None:
    text = printed(retrieval(checkpoint="random (seed 0)"))
    assert text.count("(random weights)") == 6


def test_weights_and_data_of_different_worlds_are_marked(tmp_path: Path) -> None:
    note = "weights trained on generated, data of photographs: the scores say nothing about either"
    text = printed(result(notes=[note]))
    assert f"! {note}" in text
    assert "top-1 !" in text
    write_run(tmp_path / "0", result(notes=[note]))
    write_run(tmp_path / "1", result(sampler="random"))
    text = printed(load(tmp_path))
    assert f"! {note}" in text
    assert "fps !" in text
    assert "random !" not in text


def test_a_result_without_cost_or_fidelity_or_pictures_is_shown() -> None:
    assert "top-1" in printed(result(cost={}, fidelity={}))
    assert "landmarks=0" in printed(failed())


def test_a_sweep_has_a_line_for_each_result_and_the_failures_last(sweep_folder: Path) -> None:
    write_run(sweep_folder / "9", failed("landmarks=0: give a count"))
    (sweep_folder / "10").mkdir()
    (sweep_folder / "10/result.json").write_text("{")
    lines = printed(load(sweep_folder)).splitlines()
    assert sum("[1.05, 1.30]" in line for line in lines) == 9
    assert lines[-2] == "failed in folder 9: landmarks=0: give a count"
    assert lines[-1].startswith("failed in folder 10: result.json cannot be read")
    assert "9 comparisons with full attention and 2 failures" in lines[0]


def test_a_narrow_terminal_keeps_the_columns_that_matter(sweep_folder: Path) -> None:
    narrow = printed(load(sweep_folder), width=80)
    assert all(word in narrow for word in ("sampler", "landmarks", "delta", "speedup", "-1.33", "1.15x"))


def test_where_a_line_has_no_room_an_interval_stands_below_its_value_and_no_word_is_broken(sweep_folder: Path) -> None:
    lines = printed(load(sweep_folder), width=50).splitlines()
    place = next(place for place, line in enumerate(lines) if "[1.05, 1.30]" in line)
    assert lines[place - 1].rstrip().endswith("1.22x")
    assert all(len(line) <= 50 for line in lines[place - 2 : place + 1])


def test_a_sweep_says_once_what_all_share(sweep_folder: Path) -> None:
    runs = load(sweep_folder)
    summary = summarise(runs)
    assert varying(runs) == ["sampler", "landmarks"]
    assert ("model", "made_up_vit") in summary.common
    assert ("top-1 of full", "71.25") in summary.common
    assert not {key for key, _ in summary.common} & {"mask", "tokens of full", "sampler"}
    assert label(runs[0], varying(runs)) == "fps, 16 landmarks"


def test_best_is_the_fastest_that_keeps_and_else_the_smallest_loss(sweep_folder: Path, tmp_path: Path) -> None:
    found = best(load(sweep_folder))
    assert found is not None
    assert (found[0].name, found[1]) == ("2", CLOSEST)
    for job, (delta, median) in enumerate([(-0.1, 1.1), (-0.2, 1.3), (-5.0, 2.0)]):
        top1 = {"full": 70.0, "variant": 70.0 + delta, "delta": delta, "ci": [delta - 0.5, delta + 0.5]}
        write_run(
            tmp_path / str(job),
            result(metrics={"top1": top1}, landmarks=job, cost={"speedup": {"median": median, "ci": [1.01, 2]}}),
        )
    found = best(load(tmp_path))
    assert found is not None
    assert (found[0].name, found[1]) == ("1", FASTEST)


@pytest.mark.parametrize("ends", [[0.8, 0.9], [0.95, 1.05], [1, 1.1]])
def test_the_fastest_that_keeps_the_quality_is_never_a_slower_one(tmp_path: Path, ends: list[float]) -> None:
    for job, delta in enumerate((-0.3, -0.1)):
        top1 = {"full": 70.0, "variant": 70.0 + delta, "delta": delta, "ci": [delta - 0.5, delta + 0.5]}
        cost = {"speedup": {"median": sum(ends) / 2, "ci": ends}}
        write_run(tmp_path / str(job), result(metrics={"top1": top1}, landmarks=job, cost=cost))
    found = best(load(tmp_path))
    assert found is not None
    assert (found[0].name, found[1]) == ("1", NOT_FASTER)
    assert "fastest" not in printed(load(tmp_path)).lower()


@pytest.mark.parametrize("ci", [[-9.0, -1.0], [-9.0, 1.0], [-1.0, 1.0]])
def test_of_equal_losses_the_smaller_output_error_is_named(tmp_path: Path, ci: list[float]) -> None:
    """Whether all lose, none can be told apart from full, or all keep: the first row is no better for being first."""
    metric = {"full": 90.0, "variant": 87.5, "delta": -2.5 if ci[0] == -9.0 else 0.0, "ci": ci}
    for place, (attn, error) in enumerate({"fna": 0.166, "fna_plus": 0.084, "window": None}.items()):
        cost = {"speedup": {"median": 1.0, "ci": [0.9, 1.1]}}
        fidelity = {"agreement": 95.0, "output_error": error}
        write_run(tmp_path / str(place), result(attn=attn, metrics={"top1": metric}, fidelity=fidelity, cost=cost))
    found = best(load(tmp_path))
    assert found is not None
    assert found[0].result["attn"] == "fna_plus"


def test_of_runs_that_score_nothing_the_nearest_to_full_attention_is_named(tmp_path: Path) -> None:
    for count, agreement, error in ((16, 91.0, 0.2), (32, 97.0, 0.1), (64, 97.0, 0.05)):
        near = {"agreement": agreement, "output_error": error}
        write_run(tmp_path / str(count), result(task="fidelity", landmarks=count, metrics={}, fidelity=near, cost={}))
    title = words.plain(summarise(load(tmp_path)).title)
    assert title.startswith(
        "3 comparisons with full attention. The nearest to full attention, made_up_vit on made_up_photos: FNA with 64"
    )
    assert "agrees with full attention on 97.0 %" in title


def test_no_run_that_gets_nothing_right_is_said_to_keep_the_quality(tmp_path: Path) -> None:
    nothing = {"top1": {"full": 0.0, "variant": 0.0, "delta": 0.0, "ci": [0.0, 0.0]}}
    for count in (16, 32):
        write_run(tmp_path / str(count), result(landmarks=count, metrics=nothing))
    title = words.plain(summarise(load(tmp_path)).title)
    assert "None is shown to keep the quality" in title
    assert "full attention gets nothing right" in title


def test_a_run_on_a_busy_machine_is_not_the_fastest(tmp_path: Path) -> None:
    busy = {"quiet": False, "reasons": ["other processes took 1.0 of 2 cores while 2 were needed"]}
    write_run(tmp_path / "0", result())
    cost = result()["cost"] | {"speedup": {"median": 3.0, "ci": [2.9, 3.1]}, "measurement": busy}
    write_run(tmp_path / "1", result(landmarks=16, cost=cost))
    found = best(load(tmp_path))
    assert found is not None
    assert found[0].name == "0"
    text = printed(load(tmp_path))
    assert "(3.00x)" in text
    assert "! speedups in brackets are no measurements (16 landmarks): other processes took 1.0 of 2 cores" in text


def test_the_speed_line_of_a_busy_machine_says_no_measurement(tmp_path: Path) -> None:
    busy = {"quiet": False, "reasons": ["the first half of the rounds gives 1.30x, the second 0.90x"]}
    text = printed(result(cost=result()["cost"] | {"measurement": busy}))
    [line] = [line for line in text.splitlines() if line.startswith("speedup")]
    assert "no measurement" in line
    assert "! no measurement of the speed: the first half of the rounds gives 1.30x, the second 0.90x" in text
    assert "no measurement" not in printed(result())


def test_every_figure_of_a_busy_timing_is_in_brackets_and_the_table_fits_a_terminal_all_the_same() -> None:
    busy = {"quiet": False, "reasons": ["other processes took 1.0 of 2 cores while 2 were needed"]}
    lines = printed(result(cost=result()["cost"] | {"measurement": busy})).splitlines()
    shown = {name: line for line in lines for name in ("speedup", "images a second", "sampling", "limit") if line.startswith(name)}
    for name, figures in {"speedup": "(1.19x)", "images a second": "(9.50)", "sampling": "(3.1 %)", "limit": "(1.30x)"}.items():
        assert figures in shown[name], shown
    assert "[1.17, 1.21]" not in "\n".join(lines)
    assert max(len(line.rstrip()) for line in shown.values()) <= 100
    assert "(" not in "".join(line for line in printed(result()).splitlines() if line.startswith(("images a second", "limit")))


def test_runs_whose_speed_was_not_measured_are_told_with_their_own_reasons(tmp_path: Path) -> None:
    for count, why in ((8, "made-up crowd"), (16, "made-up halves"), (32, "made-up crowd")):
        cost = result()["cost"] | {"measurement": {"quiet": False, "reasons": [why]}}
        write_run(tmp_path / str(count), result(landmarks=count, cost=cost))
    text = printed(load(tmp_path), width=400)
    assert "no measurements (8 landmarks; 32 landmarks): made-up crowd; (16 landmarks): made-up halves; run it again" in text
    assert "[1.17, 1.21]" not in text


def test_a_table_says_fna_and_explains_agreement_at_its_foot() -> None:
    lines = printed(result()).splitlines()
    assert "variant" not in "\n".join(lines)
    assert lines[-2].startswith("agreement: share of images with the same class first")
    assert lines[-1].startswith("relative output error: ")
    assert "agreement with full, image to text" in printed(retrieval())


def test_what_auto_decided_is_a_table() -> None:
    auto = {
        "landmarks": {"6": 24}, "tolerance": 0.1,
        "errors": {"5": {"8": 0.3, "24": 0.2}, "6": {"8": 0.2, "24": 0.08}, "7": {"8": 0.09, "24": 0.05}},
        "speedups": {"8": 0.9, "24": 1.4},
        "why": ["block 5: full attention, since no count ...", "block 6: 24 landmarks (error ...)", "block 7: full attention, ..."],
    }  # fmt: skip
    made = decisions(result(auto=auto))
    assert made is not None
    assert [[cell.text for cell in row] for row in made[1]] == [
        ["5", "24", "0.200", "1.40x", "full attention: no count within 0.1"],
        ["6", "24", "0.080", "1.40x", "approximated"],
        ["7", "8", "0.090", "0.90x", "full attention: not faster"],
    ]
    assert "approximated" in printed(result(auto=auto))
    assert made[0][3] == "speed (exact is 1)"  # 1.40x is the method's
    assert decisions(result()) is None
    unwritten = auto | {"landmarks": {6: 24}, "speedups": {8: 0.9, 24: 1.4}}  # as the run has it before JSON
    assert decisions(result(auto=unwritten)) == made


def test_choices_timed_on_a_busy_machine_say_so() -> None:
    """4.61x and 0.42x stood without brackets in a run that said of itself that it measured no speed."""
    auto = {
        "landmarks": {"6": 8},
        "speedups": {"8": 4.61},
        "why": ["block 6: 8 landmarks (...)"],
        "busy": "others took 1.0 of 2 cores",
    }
    text = printed(result(auto=auto), width=200)
    assert "(4.61x)" in text
    assert "auto timed its choices while others took 1.0 of 2 cores" in text
    assert "(4.61x)" not in printed(result(auto=auto | {"busy": ""}), width=200)


def test_auto_with_a_given_count_has_no_errors_to_show() -> None:
    auto = {
        "landmarks": {},
        "errors": {},
        "speedups": {"64": 0.8},
        "tolerance": 0.1,
        "why": ["block 9: full attention, since 64 ..."],
    }
    made = decisions(result(auto=auto))
    assert made is not None
    assert [cell.text for cell in made[1][0]] == ["9", "64", "–", "0.80x", "full attention: not faster"]


def test_no_best_among_different_data(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result())
    write_run(tmp_path / "1", result(dataset="made_up_too"))
    assert summarise(load(tmp_path)).best is None
    assert printed(load(tmp_path)).startswith("2 comparisons with full attention in 2 sections, ")


def test_a_sweep_of_failures_only(tmp_path: Path) -> None:
    write_run(tmp_path / "0", failed())
    write_run(tmp_path / "1", failed())
    assert "0 comparisons with full attention and 2 failures" in printed(load(tmp_path))


def test_markdown(sweep_folder: Path, run_folder: Path) -> None:
    text = write_markdown(run_folder).read_text()
    assert text == markdown(result())
    assert "| top-1 | 71.25 | 71.05 | -0.20 | [-0.80, +0.40] |" in text
    assert sweep_markdown(load(sweep_folder)).count("\n| ") == 11
    assert "a\\|b" in markdown(result(metrics={"a|b": {"full": 1, "variant": 1, "delta": 0, "ci": [0, 0]}}))


def write_options(folder: Path) -> Path:
    """A sweep over two options of a method that the identity does not know."""
    for job, (inverse, steps) in enumerate([("newton", 3), ("newton", 6), ("exact", 3), ("exact", 6)]):
        words = ["landmarks=64", f"attn.inverse={inverse}", f"attn.steps={steps}", "gallery=1"]
        write_run(folder / str(job), result(overrides=words, cost={}))
    return folder


def test_a_sweep_over_options_tells_its_runs_apart(tmp_path: Path) -> None:
    runs = load(write_options(tmp_path))
    assert varying(runs) == ["attn.inverse", "attn.steps"]
    assert label(runs[1], varying(runs)) == "attn.inverse=newton, attn.steps=6"
    summary = summarise(runs)
    assert summary.heads[:2] == ["attn.inverse", "attn.steps"]
    assert "(attn.inverse=newton, attn.steps=3)" in printed(runs).splitlines()[0]


def test_jobs_that_failed_alike_are_one_line_with_what_was_typed(tmp_path: Path) -> None:
    for job in range(5):
        write_run(tmp_path / str(job), failed("no memory") | {"overrides": ["attn=fna", f"batch_size={2**job}"]})
    write_run(tmp_path / "5", result(overrides=["attn=fna", "batch_size=1"]))
    assert printed(load(tmp_path)).splitlines()[-1] == (
        "failed in folder 0 (batch_size=1), 1 (batch_size=2), 2 (batch_size=4) and 2 more: no memory"
    )


def test_of_jobs_that_failed_alike_only_the_words_are_told_that_set_them_apart(tmp_path: Path) -> None:
    for job in range(2):
        write_run(tmp_path / str(job), failed("no file") | {"overrides": ["model=vit", "dataset=images", f"landmarks={job}"]})
    write_run(tmp_path / "2", result(overrides=["dataset=shapes"]))
    assert printed(load(tmp_path)).splitlines()[-1] == "failed in folder 0 (landmarks=0), 1 (landmarks=1): no file"


def test_no_sampler_is_no_bracket(tmp_path: Path) -> None:
    write_run(tmp_path / "0", result(attn="exact", sampler="none", cost={}))
    write_run(tmp_path / "1", failed())
    write_run(
        tmp_path / "2",
        result(cost={}, sampler="random", metrics={"top1": {"full": 70, "variant": 60, "delta": -10, "ci": [-11, -9]}}),
    )
    assert "Exact attention in blocks 4-7 keeps" in printed(load(tmp_path))


def test_the_rule_of_three_is_said_once(tmp_path: Path) -> None:
    unmoved = {"top1": {"full": 50.0, "variant": 50.0, "delta": 0.0, "ci": [0.0, 0.0]}}
    for samples in (2, 50, 300):
        write_run(tmp_path / str(samples), result(samples=samples, metrics=unmoved))
    assert summarise(load(tmp_path)).notes == []
    note = summarise(load(tmp_path)).remarks[0]
    assert "none of 2 to 300 samples changed there; up to 100 % of all samples may" in note


def test_few_samples_are_said_to_be_too_few_and_exact_attention_is_not_the_closest_to_itself(tmp_path: Path) -> None:
    unmoved = {"top1": {"full": 50.0, "variant": 50.0, "delta": 0.0, "ci": [0.0, 0.0]}}
    for attn, samples, error in (("exact", 24, 0.0), ("fna", 24, 0.1), ("nystromformer", 4, 0.05)):
        content = result(attn=attn, samples=samples, metrics=unmoved, cost={}, fidelity={"output_error": error})
        write_run(tmp_path / attn, content)
    found = best(load(tmp_path))
    assert found is not None
    assert (found[0].name, found[1]) == ("fna", f"{TOO_FEW} of those on 24 samples")
    assert "leaves top-1 as it is on 24 samples." in printed(load(tmp_path))
    assert printed(load(tmp_path)).lower().count("too few") == 1
    assert "[0.0, 0.0]" not in printed(load(tmp_path))


def test_plans_over_the_same_blocks_are_told_apart(tmp_path: Path) -> None:
    """Seeds of one plan are one line, and those of another are not among them."""
    for number, plan in enumerate((None, "0-3: exact, 4-7: fna", "0-3: fna, 4-7: exact")):
        told = {} if plan is None else {"plan": plan}
        for seed in (0, 1):
            write_run(tmp_path / f"{number}{seed}", result(layers=list(range(8)), hash=f"{number}{seed}", seed=seed, **told))
    text = sweep_markdown(load(tmp_path))
    assert "3 lines" in text
    assert "| 0-3: exact, 4-7: fna |" in text
    assert "| 0-3: fna, 4-7: exact |" in text
    assert "Plan with 64 landmarks in blocks 0-3: exact, 4-7: fna" in words.plain(
        words.headline(result(plan="0-3: exact, 4-7: fna"))
    )


def test_the_doubt_about_scores_is_no_doubt_about_what_a_run_takes() -> None:
    """MB of KV cache are as many whatever the answers are worth; what ! stands for is said above, in Markdown too."""
    metrics = {key: {"full": 4.0, "variant": 2.0, "delta": -2.0, "ci": [-2.0, -2.0]} for key in ("vqa_accuracy", "kv_megabytes")}
    doubted = result(metrics=metrics, notes=["weights and data do not belong together"])
    text = printed(doubted)
    assert "VQA accuracy !" in text
    assert "MB of KV cache !" not in text
    assert "MB of KV cache" in text
    assert "> ! weights and data do not belong together" in markdown(doubted)
