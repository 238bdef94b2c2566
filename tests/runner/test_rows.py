"""A row is there whole or not at all, and its key depends on what decides it and on nothing else."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fna.errors import UserError
from fna.ops.exact import Exact
from fna.records import write_atomic
from fna.runner.rows import RowStore, recipe, row_key
from fna.tasks.base import Outcome
from fna.versions import versions


def outcome(n: int = 5) -> Outcome:
    generator = np.random.default_rng(0)
    return Outcome(
        keys=[f"image {i}" for i in range(n)],
        counts={"correct": generator.integers(0, 2, n).astype(float), "hits": generator.integers(0, 9, (n, 3, 2)).astype(float)},
        outputs=generator.standard_normal((n, 4)).astype(np.float32),
        decisions=np.arange(n),
        labels=[f"label {i}" for i in range(n)],
        truths=["truth"] * n,
        skipped=["broken.jpg"],
    )


def test_round_trip(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    stored = outcome()
    store.put("k", stored, {"decides": {"a": 1}})
    row = store.get("k")
    assert row is not None
    assert row.outcome is not None
    assert not row.failed
    assert row.record["decides"] == {"a": 1}
    assert row.outcome.keys == stored.keys
    assert row.outcome.labels == stored.labels
    assert row.outcome.skipped == ["broken.jpg"]
    np.testing.assert_array_equal(row.outcome.outputs, stored.outputs)
    np.testing.assert_array_equal(row.outcome.decisions, stored.decisions)
    for name, counts in stored.counts.items():
        np.testing.assert_array_equal(row.outcome.counts[name], counts)


def test_missing_half_written_and_damaged_rows_count_as_missing(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    assert store.get("k") is None
    store.put("k", outcome(), {})
    record = (tmp_path / "k.json").read_bytes()
    (tmp_path / "k.json").write_bytes(record[:40])
    assert store.get("k") is None
    (tmp_path / "k.json").write_bytes(record)
    assert store.get("k") is not None
    samples = (tmp_path / "k.parquet").read_bytes()
    (tmp_path / "k.parquet").write_bytes(samples[:-20])
    assert store.get("k") is None
    (tmp_path / "k.parquet").unlink()
    assert store.get("k") is None


@pytest.mark.parametrize("content", [b"\xff\xfe\xfd\x80", b"[]", b"3", b"{}"])
def test_a_record_that_is_none_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k.json").write_bytes(content)
    assert RowStore(tmp_path).get("k") is None


@dataclass(frozen=True)
class Sampler:
    version: ClassVar[int] = 1


@dataclass(frozen=True)
class Newer(Sampler):
    version: ClassVar[int] = 2


@dataclass(frozen=True)
class Op:
    sampler: Sampler
    version: ClassVar[int] = 3


def test_versions_of_a_part_and_of_what_it_holds() -> None:
    assert versions(Op(Sampler())) == [3, [1]]
    assert versions(Op(Newer())) == [3, [2]]


METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from fna.ops.exact import Exact

@dataclass(frozen=True)
class Mine:
    def __call__(self, q, k, v, site): return {body}

@dataclass(frozen=True)
class Derived(Exact):
    def __call__(self, q, k, v, site): return {body}

@dataclass(frozen=True)
class Declared:
    version: ClassVar[int] = 1
    def __call__(self, q, k, v, site): return {body}

def function(q, k, v, site): return {body}
"""


def test_an_edited_method_is_told_apart_unless_it_declares_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits within a second look the same to it
    seen: dict[str, list[object]] = {}
    for body in ("v", "v", "2 * v"):
        (tmp_path / "mine.py").write_text(METHOD.format(body=body))
        sys.modules.pop("mine", None)
        mine = importlib.import_module("mine")
        parts = {"whole": mine.Mine(), "held": Op(mine.Mine()), "derived": mine.Derived(), "function": mine.function}
        parts |= {"bound": partial(mine.function, None), "declared": mine.Declared()}
        for name, part in parts.items():
            seen.setdefault(name, []).append(versions(part))
    sys.modules.pop("mine")
    assert all(first == again for first, again, _ in seen.values())
    assert [name for name, (first, _, edited) in seen.items() if first == edited] == ["declared"]
    assert seen["derived"][0][-1] == Exact.version


def test_failed_rows_are_remembered_and_overwritten_by_good_ones(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put_failed("k", "not finite", {})
    row = store.get("k")
    assert row is not None
    assert row.failed
    assert row.record["error"] == "not finite"
    store.put("k", outcome(), {})
    again = store.get("k")
    assert again is not None
    assert not again.failed


def test_key_ignores_order_and_sees_every_value() -> None:
    assert row_key({"a": 1, "b": [1, 2]}) == row_key({"b": [1, 2], "a": 1})
    assert row_key({"a": 1}) != row_key({"a": 2})
    assert row_key({"a": 1}) != row_key({"a": 1, "b": None})


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def broken(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(UserError, match=r"file: cannot be written .disk full.*choose another folder"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(UserError, match="choose another folder"):
        RowStore(blocker / "rows").check()


def test_record_is_plain_json(tmp_path: Path) -> None:
    RowStore(tmp_path).put("k", outcome(), {"decides": {"seed": 0}})
    assert json.loads((tmp_path / "k.json").read_text())["status"] == "ok"


def test_a_recipe_is_the_same_for_every_seed_and_another_for_anything_else() -> None:
    def made(seed: int, steps: int) -> dict[str, object]:
        op = ["fna.Op", {"steps": steps, "sampler": ["fna.Random", {"seed": seed}]}]
        return {"seed": seed, "prepared": f"learnt with {seed}", "ops": [[[op, [1]], [4, 5]]], "data": "digest"}

    assert recipe(made(0, 6)) == recipe(made(1, 6)) != recipe(made(0, 7))
    assert recipe(made(0, 6) | {"data": "other"}) != recipe(made(0, 6))
