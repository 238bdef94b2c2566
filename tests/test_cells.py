"""Text in a CSV never runs as a formula in a spreadsheet, and numbers stay numbers."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fna.cells import csv_text, defused
from fna.data.base import Dataset, Labelled
from fna.errors import UserError
from fna.report.csv_logger import CsvLogger
from fna.report.results import write_csv
from fna.tasks import by_class
from fna.tasks.base import Outcome, Run
from fna.tasks.exhibits import Pass, Show
from tests.report.made_up_results import result, write_run


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "-a cat", "=HYPERLINK(1)"]
)
def test_text_that_begins_a_formula_is_marked_as_text(text: str) -> None:
    assert defused(text) == f"'{text}"
    assert defused(defused(text)) == f"'{text}"


@pytest.mark.parametrize("value", [-0.5, 3, None, True, "-0.50", "+3", "-1e-5", "nan", "-inf", "a=b", "a-b", "", "cat", "'tis"])
def test_numbers_and_other_text_stay(value: object) -> None:
    assert defused(value) is value


def test_names_of_columns_too() -> None:
    assert csv_text([{"=a": 1}]).splitlines()[0].startswith("'=a,")


def test_every_csv_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path, result(dataset="=1+1", notes=["@note"], overrides=["dataset.root=-x"]))
    CsvLogger().log(result(dataset="=1+1"), {}, tmp_path)
    CsvLogger().log(result(dataset="=1+1"), {}, tmp_path)
    for file in (write_csv(tmp_path), tmp_path / "log.csv"):
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert {row["dataset"] for row in rows} == {"'=1+1"}
        assert all(float(row["top1_delta"]) == result()["metrics"]["top1"]["delta"] for row in rows)


def test_a_class_named_as_a_formula(tmp_path: Path) -> None:
    examples = [Labelled(f"{i}", Path(f"{i}"), i) for i in range(2)]
    dataset = Dataset("d", "test", "photographs", "digest", examples, ["=1+1", "-5"])

    def outcome(hits: list[float]) -> Outcome:
        own = np.array([0, 1])
        return Outcome(["0", "1"], {"top1": np.array(hits)}, np.zeros((2, 2), np.float32), own, ["", ""], ["=1+1", "-5"])

    passes = [Pass("", one, Run(1), nullcontext) for one in (outcome([1, 1]), outcome([0, 1]))]
    nothing: Any = None

    def write(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)

    by_class.write(Show(nothing, dataset, passes, 0, write))
    assert (tmp_path / "classes.csv").read_text().splitlines()[1:] == ["-5,1,100.00,100.00,0.00", "'=1+1,1,100.00,0.00,-100.00"]


@pytest.mark.parametrize("file", ["/tmp/x.csv", "../x.csv", "a/../../x.csv", "", ".", "result.json", "classes.csv", "x"])
def test_a_log_outside_the_run_or_over_its_files_is_refused_before_the_run(file: str) -> None:
    with pytest.raises(UserError, match=r"^logger\.file=.*give a name such as log\.csv"):
        CsvLogger(file).check()


def test_a_log_that_a_link_leads_out_of_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"^logger\.file=logs/a\.csv: .*logs leads out of the run's folder"):
        CsvLogger("logs/a.csv").log(result(), {}, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("text", ["a,a\n1,2\n", "a,b\n1,2,3\n"])
def test_a_table_that_would_lose_a_cell_is_not_added_to(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=r"log\.csv: no CSV that could be added to"):
        CsvLogger().log(result(), {}, tmp_path)
    assert (tmp_path / "log.csv").read_text() == text


def test_a_log_in_a_folder_of_its_own(tmp_path: Path) -> None:
    CsvLogger("logs/a.csv").check()
    CsvLogger("logs/a.csv").log(result(), {}, tmp_path)
    assert (tmp_path / "logs" / "a.csv").is_file()


def test_runs_that_log_into_one_file_at_once_keep_a_line_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: CsvLogger().log(result(), {}, tmp_path), range(8)))
    with (tmp_path / "log.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
