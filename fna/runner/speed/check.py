"""Issue 6's numbers as checks: each says what was wanted, what was measured, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from fna.configs import build_attention
from fna.errors import UserError
from fna.runner.memory import peak_bytes
from fna.runner.speed.floors import Machine, measure_machine, peak_allowance, stage_work
from fna.runner.speed.models import ModelCase, measure_model
from fna.runner.speed.ops import BASELINE, Case, Progress, Row, contenders, measure_case, measure_sampling, measure_stages, timing
from fna.runner.speed.turns import Work, captured, in_turns

MODELS = {"vit_b": ModelCase("vit_b", 512, 1), "vit_l": ModelCase("vit_l", 448, 1)}
PARTS = ("operation", *MODELS)


@dataclass(frozen=True)
class Finding:
    """One promise. ``value`` is a median; ``low`` and ``high`` its 95 % interval where there is one."""

    promise: str
    wanted: str
    value: float
    holds: bool
    low: float = float("nan")
    high: float = float("nan")

    def line(self) -> str:
        """For the terminal and the page."""
        spread = "" if np.isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{'holds' if self.holds else 'FAILS':<6} {self.promise}: {self.value:.2f}{spread}, wanted {self.wanted}"


def at_least(promise: str, row: Row, bound: float, key: str = "speedup", low: str = "low", high: str = "high") -> Finding:
    """A row's figure against a lower bound."""
    return Finding(promise, f"at least {bound:g}", row[key], row[key] >= bound, row.get(low, np.nan), row.get(high, np.nan))


def at_most(promise: str, value: float, bound: float) -> Finding:
    """A figure against an upper bound."""
    return Finding(promise, f"at most {bound:g}", value, value <= bound)


def pick(rows: Sequence[Row], kind: str, method: str) -> Row:
    """The row of one method."""
    return next(row for row in rows if row["kind"] == kind and row["method"] == method)


def cpu_checks(
    rounds: int, say: Progress, parts: Sequence[str] = PARTS, layers: Sequence[str] = ("last-half", "all")
) -> tuple[list[Finding], list[Row]]:
    """Points 1 to 4 of the issue on the CPU, or some `PARTS` of them; the rows that they rest on come along."""
    findings: list[Finding] = []
    rows: list[Row] = []
    if unknown := set(parts) - set(PARTS):
        raise UserError(f"--only {','.join(sorted(unknown))}: choose from {', '.join(PARTS)}.")
    if "operation" in parts:
        _operation_checks(rounds, say, findings, rows)
    for name in [part for part in parts if part in MODELS]:
        _model_checks(MODELS[name], layers, max(5, rounds // 2), say, findings, rows)
    return findings, rows


def _operation_checks(rounds: int, say: Progress, findings: list[Finding], rows: list[Row]) -> None:
    machine = measure_machine(torch.device("cpu"), torch.float32)
    base = Case()
    for case, bound in ((base, 7.0), (replace(base, tokens=4097, landmarks=256), 3.0)):
        say(f"sampling: {case.tokens} tokens, {case.landmarks} landmarks")
        new = measure_sampling(case, rounds)
        rows += new
        name = f"sampling, B=4 N={case.tokens} m={case.landmarks}, times the yardstick"
        findings.append(at_least(name, pick(new, "sampling", "fna"), bound))
    for case, bound in ((base, 4.0), (replace(base, batch=1, tokens=4097), 16.0), (replace(base, tokens=257, landmarks=32), 1.0)):
        say(f"sampling and op: {case.tokens} tokens")
        new = measure_case(case, ("fna",), machine, rounds if case.tokens < 4000 else max(5, rounds // 3))
        rows += new
        name = f"sampling and op, B={case.batch} H=16 N={case.tokens} m={case.landmarks}, times fused attention"
        findings.append(at_least(name, pick(new, "op", "fna"), bound))
        findings.append(_memory(case, new))
    findings.append(_linear_memory())


def _memory(case: Case, rows: Sequence[Row]) -> Finding:
    extra = pick(rows, "op", "fna, landmarks given")["peak_bytes"] - pick(rows, "op", BASELINE)["peak_bytes"]
    name = f"memory of the op beyond fused attention, N={case.tokens} m={case.landmarks}, in units of 4 B H m (m + d) bytes"
    return at_most(name, 8 * extra / peak_allowance(case.shape), 8.0)


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
        say(f"model: {case.model} at {case.size} px, blocks {chosen}")
        new = measure_model(replace(case, layers=chosen), model, ("fna",), rounds, rivals=False)
        rows += new
        row = pick(new, "model", "fna")
        name = f"{case.model} at {case.size} px, blocks {chosen}"
        findings.append(at_least(f"{name}: share of the attainable saving", row, 0.75, "realised", "realised_low", "realised_high"))
        findings.append(at_most(f"{name}: sampling, % of the forward", 100 * row["sampling_share"], 3.0))


def gpu_checks(rounds: int, say: Progress) -> tuple[list[Finding], list[Row]]:
    """Point 5 of the issue, in bf16 at B=16 H=16, sampling included, on the GPU at hand."""
    device = torch.device("cuda")
    machine = measure_machine(device, torch.bfloat16)
    base = Case(batch=16, heads=16, landmarks=64, dtype=torch.bfloat16, device=device)
    findings: list[Finding] = []
    rows: list[Row] = []
    for tokens, bound in ((1100, 1.0), (4097, 2.5), (16385, 8.0)):
        case = replace(base, tokens=tokens)
        say(f"sampling and op: {tokens} tokens")
        new = _replayed(case, rounds) + measure_case(case, ("fna",), machine, rounds)
        rows += new
        findings.append(at_least(f"N={tokens}, CUDA graph: times flash attention", pick(new, "graph", "fna"), bound))
        findings.append(at_least(f"N={tokens}, eager: times flash attention", pick(new, "op", "fna"), bound))
    case = replace(base, tokens=4097)
    sampling = measure_sampling(case, rounds)
    rows += sampling
    findings.append(at_most("sampling of B=16 N=4097 m=64, ms", pick(sampling, "sampling", "fna")["ms"], 1.0))
    findings += _kernel_floors(case, machine, rounds, rows)
    return findings, rows


def _replayed(case: Case, rounds: int) -> list[Row]:
    """Fused attention and FNA (landmarks drawn) as CUDA graphs on one input each: the kernels without the host."""
    sets = case.inputs()
    with torch.inference_mode():
        work = contenders(case, sets, {"fna": build_attention("fna", landmarks=case.landmarks)})
        graphs = {name: captured(partial(work[name], 0)) for name in (BASELINE, "fna")}
    seconds = in_turns({name: _once(replay) for name, replay in graphs.items()}, rounds, case.device)
    return [
        {"kind": "graph", "method": name, **case.columns(), **timing(values, seconds[BASELINE])} for name, values in seconds.items()
    ]


def _once(replay: Callable[[], None]) -> Work:
    return lambda turn: replay()


def _kernel_floors(case: Case, machine: Machine, rounds: int, rows: list[Row]) -> list[Finding]:
    """Every stage within twice its floor: the three kernels by torch's profiler, sampling by the clock."""
    from fna.ops.kernels.gpu import fast_nystrom

    rows += measure_stages(case, machine, rounds)
    q, k, v = case.inputs()[0]
    index = torch.arange(0, case.tokens, case.tokens // case.landmarks, device=case.device)[: case.landmarks].repeat(case.batch, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(rounds):
            fast_nystrom(q, k, v, index, case.width**-0.5)
        torch.cuda.synchronize()
    work = stage_work(case.shape)
    solve = tuple(map(sum, zip(work["landmark block"], work["inverse"], strict=True)))
    needs = {
        "_landmarks_over_tokens": work["landmarks over tokens"], "_pseudo_values": solve,
        "_tokens_over_landmarks": work["tokens over landmarks"],
    }  # fmt: skip
    findings = []
    for event in profile.key_averages():
        if event.key in needs:
            took = event.device_time_total / event.count / 1e6
            findings.append(at_most(f"kernel {event.key}, times its floor", took / machine.floor(*needs[event.key]), 2.0))
    return findings
