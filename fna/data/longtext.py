"""Long texts with a needle each: one fact that a question asks for, said once at some depth.

The text is real: the Python reference that every CPython brings along (``pydoc_data.topics``, half a million characters of English
prose and code), or the .txt files of a folder. Nothing of it is written for the purpose but the needle.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from fna.data.base import Dataset
from fna.errors import UserError
from fna.records import regular
from fna.values import between

CITIES = ("Lyon", "Oslo", "Cairo", "Lima", "Perth", "Quito", "Kyoto", "Riga", "Accra", "Porto", "Turin", "Hanoi")
DEPTHS = (0.1, 0.5, 0.9, 0.3, 0.7)


@dataclass(frozen=True)
class Written:
    """``text`` to be read and gone on with; ``needle`` to be put in at ``depth`` (0 to 1), ``question`` about it, the
    ``answer``.
    """

    key: str
    text: str
    needle: str
    question: str
    answer: str
    depth: float


@dataclass(frozen=True)
class LongText:
    """``root``: a folder of .txt files (UTF-8); None: the Python reference. ``characters``: of each example, none used twice."""

    root: str | None = None
    characters: Annotated[int, between(1000, 1_000_000)] = 20_000
    domain: ClassVar[str] = "texts"
    split: ClassVar[str] = "test"
    gives: ClassVar[type] = Written

    def check(self) -> None:
        """Raise `UserError` for a folder without texts."""
        if self.root is not None and not sorted(Path(self.root).glob("*.txt")):
            raise UserError(f"dataset.root={self.root}: there is no .txt file there.")

    def load(self, limit: int | None) -> Dataset:
        """As many examples as the text gives, ``limit`` at most."""
        self.check()
        text = self._text()
        count = len(text) // self.characters
        if not count:
            raise UserError(f"dataset.characters={self.characters}: the text has only {len(text)}; give fewer.")
        parts = [text[place * self.characters : (place + 1) * self.characters] for place in range(count)]
        examples = [_example(place, part) for place, part in enumerate(parts[:limit])]
        digest = hashlib.sha256("\0".join(f"{one.text}{one.needle}" for one in examples).encode()).hexdigest()
        name = "python_reference" if self.root is None else Path(self.root).name
        return Dataset(name, self.split, self.domain, digest, examples)

    def _text(self) -> str:
        if self.root is None:
            from pydoc_data.topics import topics

            return "\n\n".join(topics[name] for name in sorted(topics))
        try:
            return "\n\n".join(regular(file).read_text(encoding="utf-8-sig") for file in sorted(Path(self.root).glob("*.txt")))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"dataset.root={self.root}: {error}; give text files in UTF-8.") from error


def _example(place: int, text: str) -> Written:
    """A city and a number of five digits, both by the example's place alone."""
    city = CITIES[place % len(CITIES)]
    code = f"{int(hashlib.sha256(f'needle {place}'.encode()).hexdigest(), 16) % 90_000 + 10_000}"
    needle = f"\n\nThe magic number of {city} is {code}.\n\n"
    return Written(f"{place:04}", text, needle, f"\n\nThe magic number of {city} is", code, DEPTHS[place % len(DEPTHS)])
