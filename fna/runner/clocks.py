"""Clocks of a timed run: one for named stages of a forward pass, one for the tokens that a model writes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StageClock:
    """Adds up the seconds of named spans; the clock that a site carries in a timed run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start


class TokenClock:
    """Of each forward pass under a name the seconds to its first token, and for each further one.

    `told` is what the model's task calls after every token; what runs under no name is not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.passes: dict[Any, list[tuple[float, float]]] = defaultdict(list)
        self._times: list[float] | None = None

    def told(self) -> None:
        """A token is there."""
        if self._times is not None:
            synchronize(self.device)
            self._times.append(time.perf_counter())

    @contextmanager
    def under(self, name: Any, context: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """``context``, with the one forward pass in it counted under ``name``."""
        with context():
            synchronize(self.device)
            self._times = [time.perf_counter()]
            yield
            times, self._times = self._times, None
        if len(times) > 2:
            self.passes[name].append((times[1] - times[0], (times[-1] - times[1]) / (len(times) - 2)))

    def seconds(self, names: Mapping[str, Any], rounds: int) -> dict[str, dict[str, np.ndarray]]:
        """``first_token`` and ``further_token``: of each side the seconds ``[rounds]`` of the last so many passes under its name.

        Nothing where no tokens were told of.
        """
        if not self.passes:
            return {}
        each = {side: np.array(self.passes[name][-rounds:]) for side, name in names.items()}
        return {key: {side: both[:, place] for side, both in each.items()} for place, key in enumerate(TOKENS)}


TOKENS = ("first_token", "further_token")
