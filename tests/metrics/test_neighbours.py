"""The nearest other sample, by hand."""

from __future__ import annotations

import numpy as np

from fna.metrics.neighbours import nearest_other

ANGLES = {"d": 0, "a": 20, "c": 90, "b": 100}  # degrees: a and d are near each other, so are b and c; keys sorted: a b c d


def vectors(names: list[str]) -> np.ndarray:
    turn = np.deg2rad([ANGLES[name] for name in names])
    return np.stack([np.cos(turn), np.sin(turn)], 1) * np.arange(1, len(names) + 1)[:, None]  # lengths do not count


def test_by_hand() -> None:
    assert nearest_other(vectors(["d", "a", "c", "b"]), ["d", "a", "c", "b"]).tolist() == [0, 3, 1, 2]


def test_the_order_of_samples_does_not_matter() -> None:
    here, there = ["d", "a", "c", "b"], ["b", "d", "a", "c"]
    found = [dict(zip(names, nearest_other(vectors(names), names).tolist(), strict=True)) for names in (here, there)]
    assert found[0] == found[1]


def test_of_copies_the_first_by_key_is_taken_whatever_the_rounding() -> None:
    """Copies of one picture differ in the last bits of their embeddings, and would come first by turns."""
    generator = np.random.default_rng(0)
    one = generator.normal(size=64)
    keys = ["x", "copy 2", "copy 1", "other"]
    for _ in range(20):
        near = [one * (1 + 1e-7 * generator.normal(size=64)) for _ in range(3)]
        found = nearest_other(np.stack([*near, -one]), keys)  # sorted: copy 1, copy 2, other, x
        assert found.tolist() == [0, 0, 1, 0]


def test_many_rows_are_taken_in_pieces() -> None:
    points = np.random.default_rng(1).normal(size=(2500, 8))
    keys = [f"{number:04}" for number in range(2500)]
    found = nearest_other(points, keys)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    for row in (0, 1023, 1024, 2499):
        alike = unit @ unit[row]
        alike[row] = -1
        assert found[row] == alike.argmax()


def test_one_alone_has_itself() -> None:
    assert nearest_other(np.ones((1, 3)), ["alone"]).tolist() == [0]
