"""Labelled images with others to learn from: a bank for nearest neighbours, a training split for a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fna.data.base import NO_SPLIT, Dataset, Labelled, with_copies_noted
from fna.errors import UserError
from fna.values import counted


@dataclass
class LabelledDataset(Dataset[Labelled]):
    """``training`` gives the examples to learn from, with the same classes; None where there are none."""

    training: Callable[[], Dataset[Labelled]] | None = field(default=None, kw_only=True)


def cut(whole: Dataset[Labelled], bank: int, limit: int | None) -> LabelledDataset:
    """The first ``bank`` images of each class to learn from; of the others the first ``limit`` to be asked about.

    Raises `UserError` where the bank takes all of them.
    """
    seen: Counter[int] = Counter()
    parts: tuple[list[Labelled], list[Labelled]] = ([], [])
    for example in whole.examples:
        seen[example.label] += 1
        parts[seen[example.label] > bank].append(example)
    learnt, asked = parts
    if not learnt or not asked:
        raise UserError(
            f"dataset.bank={bank}: leaves {counted(len(learnt), 'image')} to learn from and {len(asked)} to ask about; give less."
        )

    def part(examples: list[Labelled], split: str, digest: str, notes: list[str]) -> LabelledDataset:
        return LabelledDataset(
            whole.name, split, whole.domain, f"{whole.digest} {bank} {digest}", examples, whole.classes, whole.class_ids, notes
        )

    told = f"all but {bank} of each class" if whole.split == NO_SPLIT else f"{whole.split} without {bank} of each class"
    spent = [name for label, name in enumerate(whole.classes) if 0 < seen[label] <= bank]
    notes = [*whole.notes, *part_note(asked[:limit], asked)]
    if spent:
        notes.append(
            f"of {counted(len(spent), 'class', 'classes')} no image is left to ask about (first: {spent[0]}): dataset.bank={bank} "
            "takes all there are"
        )
    queries = part(asked[:limit], told, whole.split, notes)
    queries.training = lambda: with_copies_noted(part(learnt, "bank", "bank", []), queries)
    return queries


def part_note(taken: Sequence[Labelled], whole: Sequence[Labelled]) -> list[str]:
    """How much of a set a limit leaves, in samples and in classes, which come one after the other; nothing where it leaves all."""
    if len(taken) == len(whole):
        return []
    classes, left = ({example.label for example in examples} for examples in (whole, taken))
    return [f"{len(taken):,} of {len(whole):,} samples, {len(left):,} of {len(classes):,} classes"]
