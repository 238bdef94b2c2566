"""The machine a run is on."""

from __future__ import annotations

import pytest

from fna.errors import UserError
from fna.runner.env import choose_device


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")
    for wanted, said in (
        ("mps", "cpu and cuda only"),
        ("meta", "cpu and cuda only"),
        ("cuda:99", "no such GPU"),
        ("abacus", "not a"),
    ):
        with pytest.raises(UserError, match=f"device={wanted}: .*{said}"):
            choose_device(wanted)
