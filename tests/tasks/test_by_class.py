"""Figures of every class, by hand."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from fna.data.base import Dataset, Labelled, Segmented
from fna.runner.rows import RowStore
from fna.tasks import by_class
from fna.tasks.base import Outcome, Run
from fna.tasks.exhibits import Pass, Show


def outcome(keys: list[str], labels: list[str], truths: list[str] | None = None, **counts: np.ndarray) -> Outcome:
    n = len(keys)
    return Outcome(keys, dict(counts), np.zeros((n, 2), np.float32), np.zeros(n, np.int64), labels, truths or [""] * n)


def written(folder: Path, data: Dataset, *outcomes: Outcome) -> list[str]:
    """The lines of classes.csv."""
    passes = [Pass("", one, Run(1), nullcontext) for one in outcomes]
    nothing: Any = None
    by_class.write(Show(nothing, data, passes, 0, lambda name, content: (folder / name).write_bytes(content)))  # type: ignore[arg-type,return-value]
    return (folder / "classes.csv").read_text().splitlines()


def test_accuracy_of_every_class(tmp_path: Path) -> None:
    """The bird and the machine are two classes, although both are called crane."""
    data = Dataset(
        "d", "val", "photographs", "", [Labelled(key, Path(key), label) for key, label in zip("abc", (1, 1, 2), strict=True)]
    )
    full = outcome(["a", "b", "c"], ["crane"] * 3, ["crane"] * 3, top1=np.array([1, 0, 1]))
    variant = outcome(["c", "a", "b"], ["crane"] * 3, ["crane"] * 3, top1=np.array([0, 1, 1]))
    assert written(tmp_path, data, full, variant) == [
        "class,samples,full,variant,delta",
        "crane,1,100.00,0.00,-100.00",
        "crane,2,50.00,100.00,50.00",
    ]


def test_iou_of_every_class(tmp_path: Path) -> None:
    data = Dataset("d", "val", "photographs", "", [Segmented("a", Path("a"), Path("a"))], ["sky", "road", "moon"])
    areas = {"intersection": [[2, 0, 0], [1, 1, 0]], "labelled": [[3, 0, 0], [1, 2, 0]], "predicted": [[3, 1, 0], [1, 1, 0]]}
    one = outcome(["a", "b"], ["sky", "sky"], **{name: np.array(rows) for name, rows in areas.items()})
    assert written(tmp_path, data, one, one)[1:] == ["sky,2,60.00,60.00,0.00", "road,1,33.33,33.33,0.00", "moon,0,nan,nan,nan"]


def test_rows_keep_many_decisions_a_sample(tmp_path: Path) -> None:
    one = outcome(["a", "b"], ["sky", "sky"], intersection=np.ones((2, 3)))
    one.decisions = np.arange(8).reshape(2, 4)
    store = RowStore(tmp_path)
    store.put("key", one, {})
    row = store.get("key")
    assert row is not None
    assert row.outcome is not None
    assert row.outcome.decisions.tolist() == one.decisions.tolist()
