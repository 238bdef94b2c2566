"""The operation alone: every method of conf/attn against fused attention, over tokens, batches, landmarks and dtypes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fna.configs import build_attention
from fna.ops.contract import Attention, Memo, Site, Tokens
from fna.ops.kernels import cpu
from fna.runner.clocks import StageClock
from fna.runner.memory import peak_bytes
from fna.runner.speed import yardstick
from fna.runner.speed.floors import Machine, Shape, attention_work, op_floor, stage_work
from fna.runner.speed.turns import Work, copies, in_turns
from fna.runner.turns import median_ratio

Row = dict[str, Any]
BASELINE = "sdpa"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One point of the sweep."""

    batch: int = 4
    heads: int = 16
    tokens: int = 1025
    width: int = 64
    landmarks: int = 64
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    @property
    def shape(self) -> Shape:
        """Its sizes, for the floors."""
        return Shape(self.batch, self.heads, self.tokens, self.width, self.landmarks, self.dtype.itemsize)

    def columns(self) -> Row:
        """Its identity in the CSV."""
        return {
            "batch": self.batch, "heads": self.heads, "tokens": self.tokens, "width": self.width,
            "landmarks": self.landmarks, "dtype": str(self.dtype).removeprefix("torch."), "device": self.device.type,
        }  # fmt: skip

    def inputs(self) -> list[Tensor]:
        """Enough sets of q, k, v ``[3, B, H, N, d]`` to rotate past the cache; clustered, as real tokens are."""
        generator = torch.Generator().manual_seed(0)
        sets = []
        for _ in range(copies(3 * self.shape.words * self.dtype.itemsize, self.device)):
            centres = torch.randn(3, self.batch, self.heads, 32, self.width, generator=generator)
            pick = torch.randint(32, (self.tokens,), generator=generator)
            noise = torch.randn(3, self.batch, self.heads, self.tokens, self.width, generator=generator)
            sets.append((centres[:, :, :, pick] + 0.5 * noise).to(self.device, self.dtype))
        return sets

    def site(self, **fields: Any) -> Site:
        """A site with one prefix token and, where the rest is a square, its grid; a memo of its own unless given."""
        side = int((self.tokens - 1) ** 0.5)
        grid = (side, side) if side * side == self.tokens - 1 else None
        return Site(scale=self.width**-0.5, tokens=Tokens(prefix=1, grid=grid), **fields)


def attentions(names: Sequence[str], landmarks: int, options: Mapping[str, Any] | None = None) -> dict[str, Attention]:
    """The methods of these names with so many landmarks, and with ``options`` of their own."""
    return {name: build_attention(name, landmarks=landmarks, **(options or {})) for name in names}


def contenders(case: Case, sets: Sequence[Tensor], ops: dict[str, Attention]) -> dict[str, Work]:
    """What takes part: fused attention, every op (landmarks drawn in each call), the yardstick; FNA also with landmarks given, and
    in plain torch where it would run in our own CPU kernels.
    """
    keep = (torch.arange(case.tokens, device=case.device) == 0).expand(case.batch, -1)

    def fused(turn: int) -> Tensor:
        q, k, v = sets[turn % len(sets)]
        return F.scaled_dot_product_attention(q, k, v)

    def plain(turn: int) -> Tensor:
        q, k, v = sets[turn % len(sets)]
        return yardstick.attend(q, k, v, yardstick.sample(q.mean(1).float(), case.landmarks, keep))

    def swapped(op: Attention, memo: Memo | None = None) -> Work:
        def run(turn: int) -> Tensor:
            q, k, v = sets[turn % len(sets)]
            return op(q, k, v, case.site(memo={} if memo is None else memo))

        return run

    work: dict[str, Work] = {BASELINE: fused, "yardstick": plain} | {name: swapped(op) for name, op in ops.items()}
    if "fna" in ops:
        given: Memo = {}
        work["fna, landmarks given"] = swapped(ops["fna"], given)
        work["fna, landmarks given"](0)
        if cpu.reads(sets[0]):
            work["fna, plain torch"] = without_kernels(work["fna"])
    return work


def without_kernels(work: Work) -> Work:
    """The same with plain versions in place of our CPU kernels."""

    def run(turn: int) -> object:
        with cpu.without_kernels():
            return work(turn)

    return run


def measure_case(
    case: Case, names: Sequence[str], machine: Machine, rounds: int, options: Mapping[str, Any] | None = None
) -> list[Row]:
    """One row a contender: median milliseconds, speedup over fused attention with its interval, floor, peak memory."""
    sets = case.inputs()
    work = contenders(case, sets, attentions(names, case.landmarks, options))
    seconds = in_turns(work, rounds, case.device)
    rows = []
    for name, values in seconds.items():
        with torch.inference_mode():
            peak = peak_bytes(partial(work[name], 0), case.device)
        row = {"kind": "op", "method": name, **case.columns(), **timing(values, seconds[BASELINE]), "peak_bytes": peak}
        if name in (BASELINE, "exact"):
            row |= over_floor(values, machine.floor(*attention_work(case.shape)))
        elif name.startswith("fna") or name == "yardstick":
            row |= over_floor(values, op_floor(machine, case.shape, sampling="given" not in name))
        rows.append(row)
    return rows


def timing(values: np.ndarray, baseline: np.ndarray) -> Row:
    """Median milliseconds and the median of the per-round speedups with its 95 % interval."""
    ratio = median_ratio(baseline, values)
    return {"ms": 1e3 * float(np.median(values)), "speedup": ratio["median"], "low": ratio["ci"][0], "high": ratio["ci"][1]}


def over_floor(values: np.ndarray, floor: float) -> Row:
    """The floor in milliseconds and how many times it the median is."""
    return {"floor_ms": 1e3 * floor, "over_floor": float(np.median(values)) / floor}


def measure_kernels(case: Case, rounds: int) -> Row:
    """FNA with our kernels, or the way that is taken in their place, against FNA in plain torch; landmarks drawn in each call."""
    sets, op = case.inputs(), build_attention("fna", landmarks=case.landmarks)

    def ours(turn: int) -> Tensor:
        q, k, v = sets[turn % len(sets)]
        return op(q, k, v, case.site())

    seconds = in_turns({"plain": without_kernels(ours), "ours": ours}, rounds, case.device)
    return {"kind": "grid", "method": "fna over plain torch", **case.columns(), **timing(seconds["ours"], seconds["plain"])}


def measure_stages(case: Case, machine: Machine, rounds: int) -> list[Row]:
    """FNA's stages apart, each beside its floor; "kernels" are all between drawing and answers, where one call does them."""
    sets, op = case.inputs(), build_attention("fna", landmarks=case.landmarks)
    clocks: dict[str, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for turn in range(2 + rounds):
            clock = StageClock(case.device)
            q, k, v = sets[turn % len(sets)]
            op(q, k, v, case.site(clock=clock))
            for stage, seconds in clock.seconds.items() if turn >= 2 else ():
                clocks[stage].append(seconds)
    work = stage_work(case.shape)
    fused = [needs for stage, needs in work.items() if stage != "sampling"]
    work["kernels"] = sum(flops for flops, _ in fused), sum(bytes_ for _, bytes_ in fused)
    return [
        {"kind": "stage", "method": stage, **case.columns(), "ms": 1e3 * float(np.median(values))}
        | (over_floor(np.array(values), machine.floor(*work[stage])) if stage in work else {})
        for stage, values in clocks.items()
    ]


def measure_sampling(case: Case, rounds: int) -> list[Row]:
    """Our sampler against the yardstick's on the same features ``[B, N, d]``, one token kept; speedup is over the yardstick."""
    from fna.ops.landmarks import sample_landmarks

    sets = [x[0].mean(1).float() for x in case.inputs()]
    keep = (torch.arange(case.tokens, device=case.device) == 0).expand(case.batch, -1).contiguous()
    work: dict[str, Work] = {
        "yardstick": lambda turn: yardstick.sample(sets[turn % len(sets)], case.landmarks, keep),
        "fna": lambda turn: sample_landmarks(sets[turn % len(sets)], case.landmarks, keep=keep[0]),
    }
    seconds = in_turns(work, rounds, case.device)
    return [
        {"kind": "sampling", "method": name, **case.columns(), **timing(values, seconds["yardstick"])}
        for name, values in seconds.items()
    ]


Progress = Callable[[str], None]


def sweep(
    cases: Sequence[Case], names: Sequence[str], machines: dict[torch.dtype, Machine], rounds: int, say: Progress
) -> list[Row]:
    """All cases: op, stages and sampling."""
    rows: list[Row] = []
    for case in cases:
        say(f"op: {case.columns()}")
        rows += measure_case(case, names, machines[case.dtype], rounds)
        rows += measure_stages(case, machines[case.dtype], rounds)
        rows += measure_sampling(case, rounds)
    return rows
