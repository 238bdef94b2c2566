"""Stage 4, outcomes: what each variant scored, from stored rows where there are any."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from fna.data.loading import batches
from fna.errors import UserError
from fna.ops.taken import told_if_nothing
from fna.progress import bar, say
from fna.runner.failures import line
from fna.runner.loaded import Loaded
from fna.runner.rows import heard, recipe, row_key
from fna.surgery.variant import Variant
from fna.tasks.base import FULL, Outcome, Run
from fna.values import counted


@dataclass(frozen=True)
class Scored:
    """A variant with its row: the hash, the same but for seeds, the per-sample outcome, and what was warned of meanwhile."""

    variant: Variant
    key: str
    recipe: str
    outcome: Outcome
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of a run: stored ones are taken, missing ones made; ``retry``: those that failed before are tried again."""

    loaded: Loaded
    seed: int
    retry: bool
    sharing: Callable[[], AbstractContextManager[Any]]

    def scored(self, variant: Variant) -> Scored:
        """A stored row, or the row made now.

        A failure of the variant itself (it refuses, or its outputs are not finite) is stored too, and raised again until
        ``retry``. What lies outside it, files, folders and memory, can be mended and is not: see `fna.runner.failures`.
        """
        decides = self._decides(variant)
        key, store = row_key(decides), self.loaded.store
        with store.only_one(key, f"{variant.label}: row {key}"):
            return self._found(variant, key, recipe(decides)) or self._made(variant, key, decides)

    def _found(self, variant: Variant, key: str, told: str) -> Scored | None:
        """The stored row, where it can be used. Raises `UserError` where it says that it cannot be made."""
        stored = self.loaded.store.get(key)
        if stored is not None and stored.failed and not self.retry:
            raise UserError(f"{variant.label}: failed before ({stored.record['error']}); retry_failed=true tries it again.")
        if stored is not None and stored.outcome is not None:
            if self._stands(stored.outcome):
                say(f"{variant.label}: row {key} is there, not computed again")
                return Scored(variant, key, told, stored.outcome, tuple(stored.warnings))
            say(f"{variant.label}: row {key} skipped {counted(len(stored.outcome.skipped), 'image')}, computed again")
        return None

    def _made(self, variant: Variant, key: str, decides: Mapping[str, object]) -> Scored:
        """The row, computed and stored."""
        began = time.perf_counter()
        try:
            with heard() as said:
                outcome = self._pass(variant, key)
        except ValueError as error:
            self.loaded.store.put_failed(key, line(error), {"decides": decides})
            raise UserError(line(error)) from error
        record = {"decides": decides, "variant": variant.label, "seconds": round(time.perf_counter() - began, 2), "warnings": said}
        self.loaded.store.put(key, outcome, record)
        return Scored(variant, key, recipe(decides), outcome, tuple(said))

    def run(self, variant: Variant, key: str) -> Run:
        """How a pass of ``variant`` is made: what a task keeps of it is kept under its row's key."""
        if variant.untouched:
            return replace(self.loaded.run, variant=FULL, change=FULL, sharing=self.sharing)
        change = row_key({**variant.decides(), "seed": self.seed})
        return replace(self.loaded.run, variant=key, change=change, sharing=self.sharing)

    def _decides(self, variant: Variant) -> dict[str, object]:
        seed = {} if variant.untouched else {"seed": self.seed}
        return {**self.loaded.decides, **variant.decides(), **seed}

    def _pass(self, variant: Variant, key: str) -> Outcome:
        loaded = self.loaded
        with told_if_nothing(variant.label), variant.on(loaded.model.tower), bar(variant.label, loaded.total) as progress:
            outcome = loaded.task.evaluate(loaded.model, loaded.dataset, replace(self.run(variant, key), progress=progress))
        _check_finite(outcome, variant.label, loaded.model.dtype)
        return outcome

    def _stands(self, stored: Outcome) -> bool:
        """Whether a stored outcome can be used: with ``strict`` only if nothing was skipped, else if that still cannot be read."""
        if not stored.skipped or self.loaded.run.strict:
            return not stored.skipped
        seen = set(stored.keys)
        lacking = [example for example in self.loaded.dataset.examples if example.key not in seen]
        with suppress(UserError):  # raised where none of them can be read
            return not any(batch.indices for batch in batches(lacking, self.loaded.model.transform, batch_size=1, skipped=[]))
        return True


def _check_finite(outcome: Outcome, label: str, dtype: torch.dtype) -> None:
    bad = ~torch.isfinite(torch.from_numpy(outcome.outputs)).all(1)
    if bad.any():
        first = outcome.keys[int(bad.nonzero()[0, 0])]
        mend = "mend the attention, or look at the weights" if dtype == torch.float32 else "try dtype=float32"
        raise ValueError(f"{label}: {int(bad.sum())} of {len(bad)} outputs are not finite (first: {first}); {mend}.")
