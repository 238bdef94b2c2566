"""Fixtures for end-to-end runs: a small image folder, the real command line, the shared data where it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

Cli = Callable[..., subprocess.CompletedProcess[str]]

# no timing decides which of two equal ways a test goes (tests/ops/test_paths.py lets it); programs that tests start inherit this
os.environ.setdefault("FNA_CPU_PATH", "kernels")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, or a skip that says why."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four small JPEGs each: smooth random colours, the same on every machine."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        for number in range(4):
            coarse = Image.fromarray(generator.integers(0, 255, (5, 5, 3), dtype=np.uint8))
            coarse.resize((160, 160), Image.Resampling.BICUBIC).save(root / name / f"{number}.jpg")
    return root


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run ``run.py`` (or another module with ``module=``) as a user would, with all output below a temporary folder."""

    def run(*words: str, module: str | None = None, env: dict[str, str] | None = None, timeout: float = 300) -> Any:
        program = ["-m", module] if module else [str(ROOT / "run.py")]
        return subprocess.run(
            [sys.executable, *program, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def absorbing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever layers can be absorbed are, and what was is told."""
    from fna.ops import absorbed

    monkeypatch.setenv("FNA_CPU_PATH", "absorbed")
    absorbed.taken.clear()
    yield
    absorbed.taken.clear()
