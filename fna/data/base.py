"""The four kinds of example, and the dataset that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Captioned:
    """An image and its captions. ``key`` names the sample in every file."""

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
    """An image, a question about it and the accepted answers."""

    key: str
    image: Path
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Given:
    """An image as a model takes it: ``pixels`` float ``[3, h, w]``, from a loader of the user's own."""

    key: str
    pixels: Tensor


Example = TypeVar("Example", Captioned, Labelled, Segmented, Asked, Given)


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


class DatasetSource(Protocol):
    """What ``conf/dataset/*.yaml`` instantiates: cheap to make, reads nothing until `load`.

    `check` raises `UserError` for a missing root within milliseconds; `load` reads the annotations and takes the first ``limit``
    examples (None: all).
    """

    domain: str
    split: str

    def check(self) -> None: ...

    def load(self, limit: int | None) -> Dataset: ...
