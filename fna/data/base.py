"""The kinds of example, and the dataset that holds them."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

from fna.data.contents import UNREADABLE, sha256s
from fna.data.copies import torn_note
from fna.data.places import composed
from fna.errors import UserError
from fna.values import counted

NO_SPLIT = "none"  # the split of a data set that has none


@dataclass(frozen=True)
class Pictured:
    """An image and nothing about it. ``key`` names the sample in every file."""

    key: str
    image: Path


@dataclass(frozen=True)
class Captioned:
    """An image and its captions."""

    key: str
    image: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """An image and the index of its class."""

    key: str
    image: Path
    label: int


@dataclass(frozen=True)
class Segmented:
    """An image and its label map (a file of class indices, or whatever the dataset's ``read_labels`` understands)."""

    key: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Asked:
    """An image, a question about it and the accepted answers; ``kind``: the question's type, "" where it has none."""

    key: str
    image: Path
    question: str
    answers: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class OpenQuestion:
    """A question that is answered freely. ``context``: what the image holds, in words; "" where nothing is said of it."""

    key: str
    image: Path
    question: str
    category: str
    reference: str
    context: str


@dataclass(frozen=True, eq=False)
class Given:
    """An image as a model takes it: ``pixels`` float ``[3, h, w]``, from a loader of the user's own."""

    key: str
    pixels: Tensor


Example = TypeVar("Example", Pictured, Captioned, Labelled, Segmented, Asked, Given)


@dataclass
class Dataset(Generic[Example]):
    """Examples in a fixed order, with what a row has to know about them.

    ``digest`` is a sha256 of annotations, sample names and what the images hold. ``domain``: "photographs" or "generated".
    ``classes`` are class names in label order, ``class_ids`` (WordNet ids, say) likewise, where there are classes.
    """

    name: str
    split: str
    domain: str
    digest: str
    examples: Sequence[Example]
    classes: Sequence[str] = ()
    class_ids: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise `UserError` for what no row could be stored under: a name that is no UTF-8."""
        names = (*(example.key for example in self.examples), *self.classes, *self.class_ids)
        unsaid = next((name for name in names if not is_text(name)), None)
        if unsaid is not None:
            other = sys.getfilesystemencoding().lower() not in ("utf-8", "utf8")  # it may well be one, and its locale is not
            mend = "names of files are read as {} here: set PYTHONUTF8=1" if other else "rename it"
            raise UserError(f"{self.name}: {unsaid!a} is no name in UTF-8; {mend.format(sys.getfilesystemencoding())}.")


def listed_once(dataset: Dataset) -> Dataset:
    """``dataset`` itself, to be evaluated. Raises `UserError` for a sample listed twice, which no two rows could be compared by."""
    twice = next((key for key, times in Counter(example.key for example in dataset.examples).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{dataset.name}: sample {twice} is listed twice; list it once.")
    return dataset


Taught = TypeVar("Taught", bound="Dataset")


def taught(learnt: Taught, asked: Dataset[Any], train: str) -> Taught:
    """``learnt`` itself, to learn from; copies among its images are noted with ``asked``.

    Raises `UserError` where some of its images are ``asked`` about too, links followed, and where its classes are others.
    """
    places = _places([*asked.examples, *learnt.examples])
    seen = {places[example.image] for example in asked.examples}
    learning: Sequence[Any] = learnt.examples
    both = [example for example in learning if places[example.image] in seen]
    if both:
        raise UserError(
            f"dataset.train={train}: {len(both)} of the {len(learnt.examples)} images to learn from are asked about too (first: "
            f"{both[0].key}); give a split of other images, in a folder or a list of its own."
        )
    ones, others = ([*map(composed, each.class_ids)] for each in (learnt, asked))
    if ones != others:
        odd = sorted({*ones} ^ {*others})[:1]
        raise UserError(
            f"dataset.train={train}: its {len(learnt.class_ids)} classes are not the {len(asked.class_ids)} asked about "
            f"(first: {''.join(odd)}); list the classes of both, and no others, with dataset.classes=FILE."
        )
    return with_copies_noted(learnt, asked)


def with_copies_noted(learnt: Taught, asked: Dataset[Any]) -> Taught:
    """``learnt`` itself; noted with ``asked``: its notes, which of its images are in two classes, and how many of ``asked``
    are copies of its, byte for byte.
    """
    notes = [*learnt.notes, *torn_note(learnt.examples)]
    own = [f"{learnt.split}, to learn from: {note}" for note in notes if note not in asked.notes]
    asked.notes += [note for note in own if note not in asked.notes]
    learning: Sequence[Any] = learnt.examples
    held = sha256s(example.image for example in (*asked.examples, *learning))
    known = {held[example.image]: example.key for example in reversed(learning) if held[example.image] != UNREADABLE}
    copies = [example for example in asked.examples if held[example.image] in known]
    if copies:
        first = f"{copies[0].key} is {known[held[copies[0].image]]} of {learnt.split}"
        many = f"{counted(len(copies), 'image')} of {len(asked.examples)} asked about"
        said = f"{many} also among those to learn from, byte for byte ({first}): the figures are too good by that"
        asked.notes += [said] * (said not in asked.notes)
    return learnt


def _places(examples: Sequence[Any]) -> dict[Path, str]:
    """The file behind the path of each image; the links of a folder are looked up once, for it may hold a million of them."""
    folders = {folder: os.path.realpath(folder) for folder in {example.image.parent for example in examples}}
    return {
        path: os.path.realpath(path) if os.path.islink(path) else f"{folders[path.parent]}/{path.name}"
        for path in (example.image for example in examples)
    }


def is_text(value: object) -> bool:
    """Whether this is a string that UTF-8 can say: a file's name or a JSON escape may hold halves of characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class DatasetSource(Protocol):
    """What ``conf/dataset/*.yaml`` instantiates: cheap to make, reads nothing until `load`.

    `check` raises `UserError` for a missing root within milliseconds; `load` reads the annotations and takes the first ``limit``
    examples (None: all).
    """

    domain: str
    split: str

    def check(self) -> None: ...

    def load(self, limit: int | None) -> Dataset: ...
