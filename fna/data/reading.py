"""How the images of a run are read, and what that takes beside the forward passes: measured as the run goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fna.data.prepared import Cache

AUTO: Literal["auto"] = "auto"
START = 0.1  # seconds that a loading process costs before its first image
SHIPPED = 2e9  # bytes a second, through shared memory and out of it
PAYS, MORE = 0.9, 0.95  # of the time without processes, and with one process less: below, they are worth their cost
AHEAD = 2  # batches that torch has each process prepare
SHARED = Path("/dev/shm")
LIMITS = 0.5  # of the time: a larger share spent waiting for images is noted
LEAST = 1.0  # seconds of waiting: less is not worth a word
KEPT = 0.01  # of the waiting: a forward that takes less was none, as kept features need none

Item = TypeVar("Item")


@dataclass
class Reading:
    """``workers``: loading processes, ``auto``: as many as pay; ``batch_size``: images of a forward pass; ``threads``: cores that
    one keeps busy; ``cache``: prepared images on disk.

    What was measured: ``read`` images came from files in ``busy`` seconds of whoever read them, ``cached`` of them prepared, of
    ``size`` bytes at most.
    All passes went through ``images``, ``waited`` seconds for them and spent ``forward`` seconds on them.
    """

    workers: int | Literal["auto"] = 0
    batch_size: int = 32
    threads: int = 1
    cache: Cache | None = None
    read: int = 0
    cached: int = 0
    busy: float = 0.0
    size: int = 0
    images: int = 0
    waited: float = 0.0
    forward: float = 0.0
    chosen: int | None = None  # by ``auto``, and why
    why: str = "too few images to tell, none started"
    _mark: tuple[int, float, float] | None = field(default=None, repr=False)

    def timed(self, items: Iterator[Item]) -> Iterator[Item]:
        """``items`` as they come; what is waited for them, and what is done between one and the next, is added up."""
        while True:
            asked = time.perf_counter()
            item = next(items, None)
            came = time.perf_counter()
            self.waited += came - asked
            if item is None:
                return
            yield item
            self.forward += time.perf_counter() - came

    def processes(self, left: int) -> int:
        """How many processes shall read the ``left`` images of a pass.

        ``auto`` reads here until the second ``batch_size`` images went through: the first pay for what is set up once.
        """
        if self.workers != AUTO:
            return self.workers
        if self.chosen is None and self.read >= self.batch_size:
            self._mark = self._mark or (self.read, self.busy, self.forward)
            read, busy, forward = (now - then for now, then in zip((self.read, self.busy, self.forward), self._mark, strict=True))
            if read >= self.batch_size:
                room = shutil.disk_usage(SHARED).free if SHARED.is_dir() else None
                costs = left, busy / read, forward / read, self.size
                self.chosen, self.why = choose(*costs, batch=self.batch_size, cores=cores(), threads=self.threads, room=room)
        return self.chosen or 0

    def record(self) -> dict[str, Any]:
        """For ``result.json``; nothing where no image was read."""
        if not self.read:
            return {}
        auto = {} if self.workers != AUTO else {"auto": self.why}
        return {
            "workers": (self.chosen or 0) if self.workers == AUTO else self.workers,
            **auto,
            "data_cache": self.cache is not None,
            "read": self.read,
            "from_cache": self.cached,
            "images_per_second": {"read": _rate(self.read, self.busy), "forward": _rate(self.images, self.forward)},
            "seconds": {"waited": round(self.waited, 3), "forward": round(self.forward, 3)},
            "share": round(self.share, 4),
        }

    @property
    def share(self) -> float:
        """Of the time of all passes that was spent waiting for images."""
        return self.waited / (self.waited + self.forward) if self.waited else 0.0

    def sentence(self) -> str:
        """For the terminal: images a second of reading and of the forward."""
        what = "from data_cache" if self.cached == self.read else "decode and transform"
        auto = f"; workers=auto: {self.why}" if self.workers == AUTO else ""
        through = f"the passes took {_told(_rate(self.images, self.forward))} a second through the model"
        if self.forward < KEPT * self.waited:
            through = "the model's features were kept from before, so that all the time is that of reading"
        return f"reading: {_told(_rate(self.read, self.busy))} images a second by one process ({what}); {through}{auto}"

    def notes(self) -> list[str]:
        """What kept images out of the cache, and that reading is what limits, with what to try."""
        found = [] if self.cache is None else list(self.cache.told)
        if self.share <= LIMITS or self.waited < LEAST:
            return found
        ways = [way for way, holds in (("workers=auto", self.workers == 0), ("data_cache=true", self.cache is None)) if holds]
        return [*found, f"reading takes {100 * self.share:.0f} % of the time" + (f": {' or '.join(ways)}" if ways else "")]


def choose(
    left: int, read: float, forward: float, size: int, *, batch: int, cores: int, threads: int, room: int | None
) -> tuple[int, str]:
    """How many processes read ``left`` images fastest, and why.

    ``read`` and ``forward``: seconds an image of one process and of the model, which keeps ``threads`` of the ``cores`` busy;
    ``size``: bytes of a prepared image; ``room``: bytes of shared memory, None where it has no bounds. No process is started that
    does not pay: the estimate has to be a tenth below that of reading here, and each further process has to gain a twentieth.
    """
    alone = left * (read + forward)
    best, took = 0, alone * PAYS / MORE
    bound = cores if room is None else min(cores, int(room / 2 / max(1, size * batch)) // AHEAD)
    for count in range(1, bound + 1):
        shared = (read + forward * threads) / cores
        each = max(forward + size / SHIPPED, (read + size / SHIPPED) / count, shared)
        estimate = count * START + batch * read + left * each
        if estimate < took * MORE:
            best, took = count, estimate
    costs = f"{1e3 * read:.3g} ms to read an image, {1e3 * forward:.3g} ms for its forward, {left} left, {cores} cores"
    gain = f"{best} started, about {alone:.1f} s become {took:.1f}" if best else "none started, none would pay"
    return best, f"{costs}: {gain}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-9), 2)


def _told(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
