"""Labelled images with others to learn from: a bank for nearest neighbours, a training split for a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from fna.data.base import Dataset, Labelled
from fna.data.imagefolder import ImageFolder
from fna.errors import UserError
from fna.values import Count


@dataclass
class LabelledDataset(Dataset[Labelled]):
    """``training`` gives the examples to learn from, with the same classes; None where there are none."""

    training: Callable[[], Dataset[Labelled]] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class BankedFolder(ImageFolder):
    """An image folder cut in two: the first ``bank`` images of each class to learn from, the others to be asked about."""

    bank: Count = 4

    def load(self, limit: int | None) -> LabelledDataset:
        """The first ``limit`` images outside the bank. Raises `UserError` where the bank takes all of them."""
        whole = super().load(None)
        seen: Counter[int] = Counter()
        parts: tuple[list[Labelled], list[Labelled]] = ([], [])
        for example in whole.examples:
            seen[example.label] += 1
            parts[seen[example.label] > self.bank].append(example)
        learnt, asked = parts
        if not learnt or not asked:
            raise UserError(f"dataset.bank={self.bank}: leaves {len(learnt)} images to learn from and {len(asked)} to ask about.")

        def part(examples: list[Labelled], split: str) -> LabelledDataset:
            names = (f"{self.name}, {self.bank} a class as bank", split, whole.domain, f"{whole.digest} {self.bank} {split}")
            return LabelledDataset(*names, examples, whole.classes, whole.class_ids, list(whole.notes))

        queries = part(asked[:limit], whole.split)
        queries.training = lambda: part(learnt, "bank")
        return queries
