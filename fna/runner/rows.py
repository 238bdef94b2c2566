"""Rows: what one variant scored on one dataset, kept in files named by the hash of all that decides it.

A row is two files: ``<hash>.parquet`` (one line a sample: counts, decision, output) and ``<hash>.json`` (config, warnings, digest
of the parquet and of itself). The JSON is renamed into place last, so a row is there whole or not at all, and under its own name.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fna
from fna.records import make_way, only_one, read_record, regular, write_atomic, write_record
from fna.runner.files import checked_folder
from fna.tasks.base import Outcome

ROW_VERSION = 1
OURS = Path(fna.__file__).parent


def row_key(identity: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what decides a row, 20 hex digits."""
    text = json.dumps({"row_version": ROW_VERSION, **identity}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def recipe(identity: Mapping[str, Any]) -> str:
    """`row_key` but for seeds, wherever they stand, and for what was learnt with one: equal for runs that differ in it alone."""
    return row_key({key: _unseeded(value) for key, value in identity.items() if key not in ("seed", "prepared")})


def _unseeded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _unseeded(held) for key, held in value.items() if key != "seed"}
    return [_unseeded(held) for held in value] if isinstance(value, list | tuple) else value


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect what fna itself warns of meanwhile, each sentence once; warnings of other libraries are dropped."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield said
        finally:
            said += sorted({str(one.message) for one in caught if Path(one.filename).is_relative_to(OURS)})


@dataclass
class Row:
    """One stored variant: its hash, its record (JSON) and its per-sample outcome (None for a failed row)."""

    key: str
    record: dict[str, Any]
    outcome: Outcome | None

    @property
    def failed(self) -> bool:
        """Whether this row says that it cannot be made."""
        return bool(self.record["status"] == "failed")

    @property
    def warnings(self) -> list[str]:
        """What was warned of when it was made."""
        return list(self.record.get("warnings", []))


class RowStore:
    """The folder ``rows_dir``."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def check(self) -> None:
        """Raise `UserError` unless rows can be written here."""
        probe = checked_folder(self.folder) / f".probe-{os.getpid()}"
        write_atomic(probe, b"")
        probe.unlink(missing_ok=True)

    def only_one(self, key: str, making: str = "") -> AbstractContextManager[None]:
        """Of all processes that want this row one at a time comes in: the next finds it made. See `fna.records.only_one`."""
        return only_one(self._record(key), making)

    def get(self, key: str) -> Row | None:
        """The row, or None where it is missing, of another version, damaged in any byte, or another row under this name."""
        record = read_record(self._record(key))
        if record is None or record.get("hash") != key:
            return None
        if record["status"] == "failed":
            return Row(key, record, None)
        try:
            data = regular(self._samples(key)).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != record["parquet_sha256"]:
            return None
        return Row(key, record, _from_parquet(data, record))

    def put(self, key: str, outcome: Outcome, record: Mapping[str, Any]) -> Row:
        """Store a finished row: samples first, record last. ``record`` may hold "warnings", see `Row`."""
        data = _to_parquet(outcome)
        whole = {
            **record,
            "status": "ok",
            "hash": key,
            "skipped": outcome.skipped,
            "shapes": {name: list(counts.shape[1:]) for name, counts in outcome.counts.items()},
            "parquet_sha256": hashlib.sha256(data).hexdigest(),
        }
        make_way(self._samples(key))
        write_atomic(self._samples(key), data)
        write_record(self._record(key), whole)
        return Row(key, whole, outcome)

    def put_failed(self, key: str, error: str, record: Mapping[str, Any]) -> None:
        """Remember that this row cannot be made, and why."""
        write_record(self._record(key), {**record, "status": "failed", "hash": key, "error": error})

    def _record(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _samples(self, key: str) -> Path:
        return self.folder / f"{key}.parquet"


def _to_parquet(outcome: Outcome) -> bytes:
    n = len(outcome.keys)
    columns: dict[str, Any] = {
        "key": pa.array(outcome.keys, pa.string()),
        "decision": pa.array(outcome.decisions, pa.int64()) if outcome.decisions.ndim == 1 else _fixed(outcome.decisions),
        "label": pa.array(outcome.labels, pa.string()),
        "truth": pa.array(outcome.truths, pa.string()),
        "output": _fixed(outcome.outputs.astype(np.float32)),
    }
    for name, counts in outcome.counts.items():
        flat = np.asarray(counts, np.float64).reshape(n, -1)
        columns[f"count:{name}"] = pa.array(flat[:, 0]) if flat.shape[1] == 1 else _fixed(flat)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def _fixed(array: np.ndarray) -> Any:
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def _from_parquet(data: bytes, record: Mapping[str, Any]) -> Outcome:
    table = pq.read_table(pa.BufferReader(data))
    n = table.num_rows

    def matrix(name: str) -> np.ndarray:
        column = table.column(name).combine_chunks()
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(n, -1)

    decisions = matrix("decision")
    return Outcome(
        keys=table.column("key").to_pylist(),
        counts={name: matrix(f"count:{name}").reshape(n, *shape) for name, shape in record["shapes"].items()},
        outputs=matrix("output"),
        decisions=decisions[:, 0] if decisions.shape[1] == 1 else decisions,
        labels=table.column("label").to_pylist(),
        truths=table.column("truth").to_pylist(),
        skipped=list(record.get("skipped", [])),
    )
