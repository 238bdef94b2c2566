"""Which way a piece of an operation goes on this processor: our kernels, torch's fused attention, or products one after the other.

All ways give the same numbers to rounding. Each is timed once for a piece, a dtype and a class of shapes, on first use, on random
numbers laid out as models do (half a second at most); what was found is kept in the cache folder under the processor's name, its
threads and torch's version. Ours goes unless another way is plainly faster. ``FNA_CPU_PATH=kernels``, ``fused`` or ``products``
pins the way instead; ``absorbed``: our kernels, and the layers round the attention absorbed wherever they can be
(`fna.ops.absorbed`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fna.errors import UserError
from fna.folders import cache_folder
from fna.machine import processor
from fna.ops.kernels import build
from fna.records import read_record, write_record

Way = Literal["kernels", "fused", "products"]
Pin = Literal[Way, "absorbed"]
WAYS = get_args(Pin)
PLAINLY = (
    0.67  # of the kernels' time, at most, for another way to be taken: fresh caches flatter those that leave weights in memory
)
ROUNDS = 5  # whose best counts: whatever else the machine does only adds
LEAST = 1 << 20  # tokens x landmarks x width below which nothing is timed
MOST, ROWS = 4096, 1 << 16  # tokens of what is timed, and tokens of all its heads: more than a cache holds


class Shape(NamedTuple):
    """A class of shapes: sizes rounded up."""

    piece: str
    dtype: str
    heads: int  # of all images
    tokens: int
    landmarks: int
    width: int

    @property
    def name(self) -> str:
        """In the record, in results, on the doctor's page."""
        return f"{self.piece} {self.dtype} {self.heads} x {self.tokens} x {self.landmarks} x {self.width}"


Short = Callable[..., Tensor]  # q, k, v, the scale, and what is added
taken: dict[str, Way] = {}  # what this process measured or read, by the name of the class


def way(piece: str, many: Tensor, few: Tensor, ways: Mapping[Way, Short]) -> Way:
    """The way for a piece whose long side is ``many`` ``[B, H, N, d]`` and whose short side is ``few`` ``[B, H, M, d]``.

    ``ways``: how to go each that can be gone, `kernels` among them or not. Raises `UserError` for a pin that is none.
    """
    forced = pinned()
    first = next(iter(ways))
    if forced is not None:
        return next((one for one in ways if one == forced), first)
    if many.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing() or len(ways) < 2:
        return first
    if many.shape[2] * few.shape[2] * many.shape[3] < LEAST:
        return first
    tokens, width = min(_above(many.shape[2]), MOST), -(-many.shape[3] // 16) * 16
    heads = min(_above(many.shape[0] * many.shape[1]), ROWS // tokens)
    shape = Shape(piece, str(many.dtype).removeprefix("torch."), heads, tokens, _above(few.shape[2]), width)
    name = shape.name if "kernels" in ways else f"{shape.name} without kernels"
    if name not in taken:
        taken[name] = _known(name, ways) or _found(name, shape, ways)
    return taken[name]


def _above(count: int) -> int:
    return 1 << (count - 1).bit_length()


def pinned() -> Pin | None:
    """The way that FNA_CPU_PATH names; None where it is not set. Raises `UserError` for one that there is not."""
    said = os.environ.get("FNA_CPU_PATH", "")
    if said and said not in WAYS:
        raise UserError(f"FNA_CPU_PATH={said}: choose one of {', '.join(WAYS)}, or unset it to have the ways timed.")
    return next((one for one in WAYS if one == said), None)


def _known(name: str, ways: Mapping[Way, Short]) -> Way | None:
    """What an earlier process found; None where there is no record, or one that cannot be read."""
    found = record().get("ways", {}).get(name, {}).get("way")
    return next((one for one in ways if one == found), None)


def _found(name: str, shape: Shape, ways: Mapping[Way, Short]) -> Way:
    """Times the ways in a thread of its own, where no mode of the caller's (a FLOP counter, autocast, gradients) is on."""
    with ThreadPoolExecutor(1) as worker:
        seconds = worker.submit(timed, shape, ways).result()  # raises what was raised there: nothing is remembered then
    ours, best = next(iter(ways)), min(seconds, key=lambda one: seconds[one])
    found = best if seconds[best] < PLAINLY * seconds[ours] else ours
    _remember(name, found, seconds)
    return found


def timed(shape: Shape, ways: Mapping[Way, Short]) -> dict[Way, float]:
    """Seconds of each way on random numbers, in turns: its best round after the first."""
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: int) -> tuple[Tensor, Tensor]:
        numbers = torch.randn(1, rows, 2, shape.heads, shape.width, generator=generator).to(getattr(torch, shape.dtype))
        first, second = numbers.permute(2, 0, 3, 1, 4).unbind(0)
        return first, second

    many, few = drawn(shape.tokens), drawn(shape.landmarks)
    asked = (few[0], *many) if shape.piece == "few_queries" else (many[0], *few)
    seconds: dict[Way, list[float]] = {one: [] for one in ways}
    with torch.inference_mode():
        for _ in range(1 + ROUNDS):
            for one, go in ways.items():
                start = time.perf_counter()
                go(*asked, shape.width**-0.5)
                seconds[one].append(time.perf_counter() - start)
    return {one: min(values[1:]) for one, values in seconds.items()}


def _remember(name: str, found: Way, seconds: Mapping[Way, float]) -> None:
    """Adds a line to the record; a cache that cannot be written is measured again next time, and that is all."""
    entry = {"way": found, "ms": {one: 1e3 * value for one, value in seconds.items()}}
    stored = record() or {"processor": processor(), "ways": {}}
    with suppress(UserError):
        write_record(record_file(), {**stored, "ways": {**stored["ways"], name: entry}})


def forget() -> None:
    """Have all timed anew. Raises `UserError` where the record cannot be written."""
    write_record(record_file(), {"processor": processor(), "ways": {}})
    taken.clear()


def record() -> dict[str, Any]:
    """What was found on this processor; nothing where it is not kept, or damaged."""
    try:
        return read_record(record_file()) or {}
    except UserError:  # a user without a home
        return {}


def record_file() -> Path:
    """Where what was found on this processor is kept. `UserError` for a user without a home."""
    return cache_folder() / f"cpu_ways_{_machine()}.json"


@cache
def _machine() -> str:
    told = (processor(), torch.get_num_threads(), torch.__version__, build.sources())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
