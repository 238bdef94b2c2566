"""result.json files: read, flattened, written as one CSV; nothing dropped in silence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fna.errors import UserError
from fna.report.results import flatten, load, natural, overrides, ratio, read, reference, write_csv
from fna.report.table import sweep_markdown
from tests.report.made_up_results import failed, result, write_run


def test_csv_gives_back_every_number(sweep_folder: Path) -> None:
    with write_csv(sweep_folder).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == [str(job) for job in range(9)]
    for row in rows:
        content = json.loads((sweep_folder / row["folder"] / "result.json").read_text())
        top1 = content["metrics"]["top1"]
        assert [float(row[f"top1_{part}"]) for part in ("full", "variant", "delta")] == [
            top1["full"],
            top1["variant"],
            top1["delta"],
        ]
        assert [float(row["top1_low"]), float(row["top1_high"])] == top1["ci"]
        assert float(row["speedup"]) == content["cost"]["speedup"]["median"]
        assert (row["hash"], row["sampler"], int(row["landmarks"])) == (content["hash"], content["sampler"], content["landmarks"])
        assert json.loads(row["layers"]) == content["layers"]


def test_a_speedup_that_is_no_measurement_says_so_in_its_line_of_the_csv(tmp_path: Path) -> None:
    busy = result()["cost"] | {"measurement": {"quiet": False, "reasons": ["other processes took 1.2 of 2 cores"]}}
    assert flatten(result(cost=busy))["no_measurement"] == "other processes took 1.2 of 2 cores"
    assert flatten(result())["no_measurement"] is None


def test_a_default_stands_beside_what_was_typed_for_another_run(tmp_path: Path) -> None:
    """kv.budget was empty for all policies that kept the default quarter."""
    default = result(options={"kv.budget": 0.25}, hash="a", seed=1)
    typed = result(options={"kv.budget": 0.1}, overrides=["kv.budget=0.1"], hash="b")
    same = result(options={"kv.budget": 0.25}, overrides=["kv.budget=0.25"], hash="a", seed=1)
    for place, one in enumerate((default, typed, same)):
        write_run(tmp_path / str(place), one)
    with write_csv(tmp_path).open() as stream:
        assert [row["kv.budget"] for row in csv.DictReader(stream)] == ["0.25", "0.1", "0.25"]
    assert "3 comparisons with full attention in 2 lines, equal runs together" in sweep_markdown(load(tmp_path))


def test_csv_has_the_union_of_columns_and_empty_cells_for_what_is_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "a", result())
    write_run(tmp_path / "b", result(metrics={"miou": {"full": 40.0, "variant": None, "delta": float("nan"), "ci": None}}, cost={}))
    write_run(tmp_path / "c", failed("an error, with a comma"))
    with write_csv(tmp_path).open(newline="") as file:
        a, b, c = csv.DictReader(file)
    assert (a["miou_full"], b["miou_full"], b["miou_variant"], b["miou_delta"], b["speedup"]) == ("", "40.0", "", "", "")
    assert (c["status"], c["error"], c["top1_full"]) == ("failed", "an error, with a comma", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"schema": 1, "status": "ok", "metr', "cannot be read"),
        ("[]", "not an object"),
        ('{"schema": 2, "status": "ok"}', "schema 2"),
        ('{"schema": 1}', "no status"),
        ('{"schema": 1, "status": "ok"}', "no metrics"),
        ('{"schema": 1, "status": "ok", "metrics": {"top1": {"full": 1}}}', "top1"),
        ('{"schema": 1, "status": "ok", "metrics": []}', "metrics"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    write_run(tmp_path / "whole", result())
    broken = tmp_path / "half"
    broken.mkdir()
    (broken / "result.json").write_bytes(text.encode("latin-1"))
    runs = {run.name: run.result for run in load(tmp_path)}
    assert runs["whole"]["status"] == "ok"
    assert runs["half"]["status"] == "broken"
    assert reason in runs["half"]["error"]


def test_no_folder_and_no_result_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no result\.json"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line_and_leaves_no_draft(tmp_path: Path) -> None:
    write_run(tmp_path, result())
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_csv(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_reference_is_the_named_baseline_or_the_faster_one() -> None:
    assert reference(result()) == "exact"
    assert reference(result(cost={"images_per_second": {"full": 3.0, "exact": 2.0}})) == "full"
    assert reference(result(cost={"baseline": "full", "images_per_second": {"full": 1.0, "exact": 2.0}})) == "full"
    assert reference(result(cost={})) == "full"


def test_ratio_is_variant_over_full() -> None:
    assert ratio(result(), "cost", "flops") == pytest.approx(0.8)
    assert ratio(result(cost={}), "cost", "flops") is None


def test_flatten_names_intervals_low_and_high() -> None:
    row = flatten(result(notes=["a"], warnings=["b"], skipped=["x", "y"]))
    assert (row["agreement"], row["agreement_low"], row["agreement_high"]) == (96.4, 94.8, 97.9)
    assert (row["notes"], row["skipped"], row["baseline"]) == ("a; b", 2, "exact")


def test_read_names_a_missing_file(tmp_path: Path) -> None:
    assert read(tmp_path / "result.json")["status"] == "broken"


def test_what_was_typed_is_a_column() -> None:
    words = ["landmarks=64", "attn.steps=3", "+attn.ridge=1e-4", "sampler.features='q'", "rows_dir=here"]
    assert overrides(result(overrides=words)) == {"attn.steps": 3, "attn.ridge": 1e-4, "sampler.features": "q"}
    row = flatten(result(overrides=words))
    assert (row["landmarks"], row["attn.steps"]) == (64, 3)
    assert "rows_dir" not in row


def test_a_result_of_brackets_only_is_broken_and_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[" * 100_000)
    assert read(tmp_path / "result.json")["status"] == "broken"


def test_a_digit_that_is_no_number_sorts_as_text() -> None:
    assert natural("1²2") == [(-1, ""), (1, ""), (-1, "²"), (2, ""), (-1, "")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("notes", 3),
        ("warnings", {}),
        ("skipped", 1.5),
        ("overrides", "landmarks=3"),
        ("layers", [1, "x"]),
        ("layers", {}),
        ("sampler", {}),
        ("sampler", 5),
        ("task", []),
        ("seed", [0, 1]),
        ("landmarks", [16]),
    ],
)
def test_a_field_of_another_kind_makes_a_result_broken_not_the_report_fail(tmp_path: Path, key: str, value: object) -> None:
    write_run(tmp_path / "a", {**result(), key: value})
    (run,) = load(tmp_path)
    assert (run.result["status"], run.result["error"]) == ("broken", f"result.json is not whole: {key} is {json.dumps(value)}")
    assert flatten(run.result)["status"] == "broken"


def test_options_that_are_no_object_make_a_result_broken(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {**result(), "options": "attn.steps=3"})
    (run,) = load(tmp_path)
    assert run.result["error"] == "result.json is not whole: options is not an object"


def test_a_folder_that_no_machine_can_have_is_no_such_folder() -> None:
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(UserError, match="no such folder"):
            load(name)
