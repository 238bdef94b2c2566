"""Promises as checks: each says what was wanted, what was measured, and whether it holds. Here those for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from fna.configs import build_attention
from fna.runner.speed.floors import Machine, measure_machine, stage_work
from fna.runner.speed.ops import BASELINE, Case, Progress, Row, contenders, measure_case, measure_sampling, measure_stages, timing
from fna.runner.speed.turns import Work, captured, in_turns


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


def gpu_checks(rounds: int, say: Progress) -> tuple[list[Finding], list[Row]]:
    """In bf16 at B=16 H=16, sampling included, on the GPU at hand."""
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
