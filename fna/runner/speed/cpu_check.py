"""What is promised on a CPU, as checks: each says what was wanted, what was measured, and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch

from fna.configs import build_attention
from fna.errors import UserError
from fna.machine import has_bfloat16
from fna.runner.memory import peak_bytes
from fna.runner.speed.check import Finding, at_least, at_most, pick
from fna.runner.speed.floors import Machine, measure_machine, peak_allowance
from fna.runner.speed.models import ModelCase, measure_model, measure_times
from fna.runner.speed.ops import BASELINE, Case, Progress, Row, measure_case, measure_kernels, measure_sampling

MODELS = {"vit_b": ModelCase("vit_b", 512, 1), "vit_l": ModelCase("vit_l", 448, 1)}
# how many times as fast as exact attention, by blocks, with 64 landmarks and with half as many as a head is wide
TIMES = {
    "clip_shapes": (ModelCase("clip_shapes", 256, 8), {"last-half": 1.25}),
    "dinov2_s": (ModelCase("dinov2_s", 518, 1), {"last-half": 1.2, "all": 1.6}),
    "dinov2_s_32": (ModelCase("dinov2_s", 518, 1, landmarks=32), {"all": 1.75}),
    "vit_b_32": (ModelCase("vit_b", 512, 1, landmarks=32), {"all": 1.3}),
}
PARTS = ("operation", "grid", *MODELS, *TIMES)
DTYPES = ("float32", "bfloat16")
SAMPLING = ((1025, 64, 7.0), (4097, 256, 3.0))  # tokens, landmarks, times the yardstick
# batch, tokens, landmarks, and how many times as fast as fused attention in that dtype, landmarks drawn in each call
OPERATION = {
    "float32": ((4, 1025, 64, 4.5), (1, 4097, 64, 20.0), (1, 4097, 256, 6.0), (4, 257, 32, 1.2)),
    "bfloat16": ((4, 1025, 64, 3.5), (1, 4097, 64, 12.0), (1, 4097, 256, 4.0), (4, 257, 32, 0.95)),
}
MANY = 128  # landmarks from which on inverse=auto is what is promised
OVER_FLOOR = 1.6  # with landmarks given, float32, from 1,025 tokens
REALISED, SAMPLING_SHARE = 0.8, 3.0
GRID = {"tokens": (197, 577, 1025, 2049), "landmarks": (16, 64, 256), "batch": (1, 2, 4)}
SLOWER = 0.97  # of plain torch's speed, at least, in every cell


def cpu_checks(
    rounds: int,
    say: Progress,
    parts: Sequence[str] = PARTS,
    layers: Sequence[str] = ("last-half", "all"),
    dtypes: Sequence[str] = DTYPES,
) -> tuple[list[Finding], list[Row]]:
    """Everything, or some `PARTS` of it; the rows that it rests on come along.

    On a processor without products of bfloat16 its promises are held against float32, which whoever can choose would take.
    """
    if unknown := set(parts) - set(PARTS):
        raise UserError(f"--only {','.join(sorted(unknown))}: choose from {', '.join(PARTS)}.")
    if unknown := set(dtypes) - set(DTYPES):
        raise UserError(f"--dtype {','.join(sorted(unknown))}: choose from {', '.join(DTYPES)}.")
    findings: list[Finding] = []
    rows: list[Row] = []
    if "bfloat16" in dtypes and not has_bfloat16():
        say("this processor has no products of bfloat16: fused attention in float32 is what bfloat16 is compared with")
    if "operation" in parts:
        _sampling_checks(rounds, say, findings, rows)
        for dtype in dtypes:
            _operation_checks(dtype, rounds, say, findings, rows)
        findings.append(_linear_memory())
    if "grid" in parts:
        for dtype in dtypes:
            _grid_checks(dtype, max(5, rounds // 2), say, findings, rows)
    for name, dtype in product([part for part in parts if part in MODELS], dtypes):
        _model_checks(replace(MODELS[name], dtype=dtype), layers, max(5, rounds // 2), say, findings, rows)
    for name in [part for part in parts if part in TIMES]:
        _times_checks(*TIMES[name], 2 * rounds, say, findings, rows)
    return findings, rows


def _sampling_checks(rounds: int, say: Progress, findings: list[Finding], rows: list[Row]) -> None:
    for tokens, landmarks, bound in SAMPLING:
        say(f"sampling: {tokens} tokens, {landmarks} landmarks")
        new = measure_sampling(Case(tokens=tokens, landmarks=landmarks), rounds)
        rows += new
        name = f"sampling, B=4 N={tokens} m={landmarks}, times the yardstick"
        findings.append(at_least(name, pick(new, "sampling", "fna"), bound))


def _operation_checks(dtype: str, rounds: int, say: Progress, findings: list[Finding], rows: list[Row]) -> None:
    machine = measure_machine(torch.device("cpu"), getattr(torch, dtype))
    for batch, tokens, landmarks, bound in OPERATION[dtype]:
        case = Case(batch=batch, tokens=tokens, landmarks=landmarks, dtype=getattr(torch, dtype))
        say(f"sampling and op: {dtype}, {tokens} tokens, {landmarks} landmarks")
        new = _measured(case, machine, rounds if tokens < 4000 else max(5, rounds // 3))
        rows += new
        name = f"{dtype}, B={batch} H=16 N={tokens} m={landmarks}"
        told = ", inverse=auto" if landmarks >= MANY else ""
        findings.append(at_least(f"{name}{told}: sampling and op, times fused attention", pick(new, "op", "fna"), bound))
        given = pick(new, "op", "fna, landmarks given")
        if dtype == "float32" and tokens > 1000 and landmarks < MANY:
            findings.append(at_most(f"{name}: op with landmarks given, times its floor", given["over_floor"], OVER_FLOOR))
        extra = given["peak_bytes"] - pick(new, "op", BASELINE)["peak_bytes"]
        units = 8 * extra / peak_allowance(case.shape)
        findings.append(at_most(f"{name}: memory beyond fused attention, in units of 4 B H m (m + d) bytes", units, 8.0))


def _measured(case: Case, machine: Machine, rounds: int) -> list[Row]:
    options = {"inverse": "auto"} if case.landmarks >= MANY else {}
    if case.dtype == torch.bfloat16 and not has_bfloat16():
        wide = measure_case(replace(case, dtype=torch.float32), (), machine, rounds)
        rows = measure_case(case, ("fna",), machine, rounds, options)
        times = pick(wide, "op", BASELINE)["ms"] / pick(rows, "op", "fna")["ms"]
        pick(rows, "op", "fna").update(speedup=times, low=np.nan, high=np.nan)
        return rows
    return measure_case(case, ("fna",), machine, rounds, options)


def _grid_checks(dtype: str, rounds: int, say: Progress, findings: list[Finding], rows: list[Row]) -> None:
    """FNA beside itself in plain torch in every cell; the worst cell is what is said."""
    say(f"grid: {dtype}, {' x '.join(str(len(values)) for values in GRID.values())} cells beside plain torch")
    new = []
    for tokens, landmarks, batch in product(*GRID.values()):
        case = Case(batch=batch, tokens=tokens, landmarks=landmarks, dtype=getattr(torch, dtype))
        new.append(measure_kernels(case, rounds))
    rows += new
    worst = min(new, key=lambda row: row["high"])
    cell = f"N={worst['tokens']} m={worst['landmarks']} B={worst['batch']}"
    name = f"{dtype}: the slowest of {len(new)} cells ({cell}), times plain torch (the interval's upper end)"
    findings.append(Finding(name, f"at least {SLOWER:g}", worst["high"], worst["high"] >= SLOWER, worst["low"], worst["high"]))


def _linear_memory() -> Finding:
    """Peak memory of FNA at 65,536 tokens over 16 times that at 4,096: 1 where it is linear."""
    peaks = []
    for tokens in (4096, 65536):
        case = Case(batch=1, heads=2, tokens=tokens)
        q, k, v = torch.randn(3, 1, 2, tokens, 64)
        op = build_attention("fna", landmarks=64)
        with torch.inference_mode():
            peaks.append(peak_bytes(partial(op, q, k, v, case.site()), case.device))
    return at_most("peak memory at 65,536 tokens over 16 times that at 4,096", peaks[1] / peaks[0] / 16, 1.1)


def _model_checks(
    case: ModelCase, layers: Sequence[str], rounds: int, say: Progress, findings: list[Finding], rows: list[Row]
) -> None:
    model = case.build()
    for chosen in layers:
        say(f"model: {case.model} at {case.size} px, {case.dtype}, blocks {chosen}")
        new = measure_model(replace(case, layers=chosen), model, ("fna",), rounds, rivals=False, options={"inverse": "auto"})
        rows += new
        row = pick(new, "model", "fna")
        name = f"{case.model} at {case.size} px, {case.dtype}, blocks {chosen}, inverse=auto"
        inside = f"{name}: share of the attainable saving, by clocks inside the model"
        findings.append(at_least(inside, row, REALISED, "inside", "inside_low", "inside_high"))
        told = f"{row['realised']:.2f} ({row['realised_low']:.2f} to {row['realised_high']:.2f})"
        say(f"{name}: the same from whole forwards, which scatter too much to be judged: {told}")
        findings.append(at_most(f"{name}: sampling, % of the forward", 100 * row["sampling_share"], SAMPLING_SHARE))


def _times_checks(
    case: ModelCase, bounds: Mapping[str, float], rounds: int, say: Progress, findings: list[Finding], rows: list[Row]
) -> None:
    """A whole model beside exact attention; told too: with none, and with FNA between projections as they are."""
    model = case.build()
    for chosen, bound in bounds.items():
        case = replace(case, layers=chosen)
        say(f"model: {case.model} at {case.size} px, {case.dtype}, blocks {chosen}")
        new = measure_times(case, model, rounds, {"inverse": "auto"})
        rows += new
        name = f"{case.model} at {case.size} px, {case.dtype}, m={case.landmarks}, blocks {chosen}, inverse=auto"
        findings.append(at_least(f"{name}: times exact attention", pick(new, "times exact", "fna"), bound))
        for other in ("no attention", "fna, layers apart"):
            row = pick(new, "times exact", other)
            say(f"{name}: {row['speedup']:.2f} ({row['low']:.2f} to {row['high']:.2f}) with {other}")
