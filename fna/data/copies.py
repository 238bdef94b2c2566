"""Pictures that are there twice, byte for byte: what to note of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fna.data.contents import UNREADABLE, sha256s
from fna.values import counted

COPIES = 0.01  # of all pictures: fewer copies within a class, or where there are none, are not worth a word
Pairs = list[tuple[str, str]]  # keys of a copy and of what it is one of


def copies_note(examples: Sequence[Any]) -> list[str]:
    """How many pictures are copies of another, byte for byte, and the first: any in two classes, others from `COPIES` of all on.

    Files are known by then, from the set's digest: this costs a look at each file's stamp.
    """
    copies, torn, whole = _copies(examples)
    if not copies or (not torn and len(copies) < COPIES * whole):
        return []
    (copy, original), are = (torn or copies)[0], "is a copy" if len(copies) == 1 else "are copies"
    apart = f", {len(torn):,} in another class than it, where no answer is right for both" * bool(torn)
    return [
        f"{counted(len(copies), 'picture')} of {whole:,} {are} of another, byte for byte{apart} (first: {copy} is "
        f"{original}): each counts as a sample of its own{', and its copy is the one nearest to it' * (not torn)}"
    ]


def torn_note(examples: Sequence[Any]) -> list[str]:
    """How many pictures to learn from are copies, byte for byte, of one in another class; nothing where none is."""
    _, torn, whole = _copies(examples)
    if not torn:
        return []
    are = "is a copy" if len(torn) == 1 else "are copies"
    return [
        f"{counted(len(torn), 'picture')} of {whole:,} {are} of one in another class, byte for byte (first: {torn[0][0]} is "
        f"{torn[0][1]}): both classes are learnt from it; keep it in one"
    ]


def _copies(examples: Sequence[Any]) -> tuple[Pairs, Pairs, int]:
    """Pictures that are copies of one before them, those of them in another class, and of how many pictures."""
    pictures = {example.image: example for example in examples if hasattr(example, "image")}  # several questions may be about one
    held = sha256s(pictures)
    first: dict[str, Any] = {}
    copies, torn = [], []
    for path, example in pictures.items():
        original = first.setdefault(held[path], example)
        if original is not example and held[path] != UNREADABLE:
            copies.append((example.key, original.key))
            torn += [copies[-1]] * (getattr(example, "label", None) != getattr(original, "label", None))
    return copies, torn, len(pictures)
