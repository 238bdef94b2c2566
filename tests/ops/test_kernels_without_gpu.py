"""On a machine without a GPU: the kernel tests in Triton's interpreter, and every kernel compiled for Hopper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
HOPPER = 90
SHARED_LIMIT = 227 << 10  # bytes of shared memory that one program may have there
pytestmark = [pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernels themselves")]


def test_in_the_interpreter() -> None:
    """A process of its own: Triton reads the switch when it is first imported."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__).with_name("test_kernels.py"))]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


TYPES = {
    "scale": "fp32", "index": "*i64", "chosen": "*i64", "slots": "*i64", "arrived": "*i64", "keep": "*i8", "drop": "*i8",
    "valid": "*i8", "state": "*fp32", "part": "*fp32", "top": "*fp32", "total": "*fp32", "key_sums": "*fp32", "value_sums": "*fp32",
    "mass": "*fp32", "weight": "*fp32", "group": "*i64",
}  # fmt: skip
TILES = ("q", "k", "v", "x", "values", "out", "bias")
MARKS_64 = {"MARKS": 64, "WIDTH": 64, "PRECISION": "tf32x3"}
MARKS_128 = MARKS_64 | {"MARKS": 128}
POINTS = {"HAS_KEEP": True, "HAS_DROP": True, "BLOCK": 128, "WIDTH": 64}
GRID = {"SIDE": 8, "KEYS": 32, "WIDTH": 64}
CASES = [
    ("fps", "_farthest_points", "fp32", 8, POINTS | {"PROGRAMS": 1}),
    ("fps", "_farthest_points", "fp32", 8, POINTS | {"PROGRAMS": 8}),
    ("nystrom", "_landmarks_over_tokens", "bf16", 4, MARKS_64 | {"HAS_BIAS": True, "KEYS": 64}),
    ("nystrom", "_landmarks_over_tokens", "fp32", 4, MARKS_128 | {"HAS_BIAS": False, "KEYS": 64}),
    ("nystrom", "_pseudo_values", "bf16", 4, MARKS_64 | {"STEPS": 6, "LOW": False}),
    ("nystrom", "_pseudo_values", "bf16", 8, MARKS_128 | {"STEPS": 6, "LOW": True}),
    ("nystrom", "_tokens_over_landmarks", "bf16", 4, MARKS_64 | {"KEYS": 64}),
    ("nystrom", "_tokens_over_landmarks", "fp32", 4, MARKS_128 | {"KEYS": 64}),
    ("local", "_windowed", "bf16", 4, GRID | {"HAS_WEIGHT": True, "MARKS": 32}),
    ("local", "_windowed", "fp32", 8, GRID | {"HAS_WEIGHT": False, "MARKS": 128}),
]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("module", "name", "dtype", "warps", "constants"), CASES)
def test_compiles_for_hopper(module: str, name: str, dtype: str, warps: int, constants: dict[str, Any]) -> None:
    from importlib import import_module

    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(import_module(f"fna.ops.kernels.{module}"), name)
    types = {argument: TYPES.get(argument, f"*{dtype}" if argument in TILES else "i32") for argument in kernel.arg_names}
    signature = {argument: "constexpr" if argument in constants else kind for argument, kind in types.items()}
    places = {(kernel.arg_names.index(constant),): value for constant, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constexprs=places, attrs=aligned)
    options = {"num_warps": warps, "num_stages": 2 if name == "_landmarks_over_tokens" else 1}
    if constants.get("PROGRAMS", 1) > 1:
        options["launch_cooperative_grid"] = True
    compiled = triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options=options)
    assert compiled.metadata.shared <= SHARED_LIMIT
    if name != "_farthest_points":
        assert "wgmma" in compiled.asm["ptx"], "the products are on the matrix units"
