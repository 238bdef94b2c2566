"""Images of examples in batches, in a fixed order, with a rule for those that cannot be read."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from fna.data.base import Given
from fna.data.files import UNREADABLE
from fna.data.pictures import open_image
from fna.data.prepared import Shelf, Unread
from fna.data.reading import AHEAD, Reading
from fna.errors import UserError
from fna.mistaken import beginning, mistaken

Transform = Callable[[Image.Image], Tensor]
# what torch says of a loading process that the system killed, or gave no shared memory, files or processes
STARVED = re.compile(r"DataLoader worker .*(killed|exited)|shared memory|torch_\d+_|ancdata|Too many open files", re.I)


class Pictured(Protocol):
    """Any example: it has an image."""

    @property
    def key(self) -> str: ...

    @property
    def image(self) -> Path: ...


@dataclass(frozen=True)
class Batch:
    """``images`` float ``[b, 3, h, w]`` of the examples at ``indices`` (length b, b may be 0); ``tried``: how many were due."""

    indices: list[int]
    images: Tensor
    tried: int


def transformed(example: Any, transform: Transform) -> Tensor:
    """What a model takes of an example: ``[3, h, w]``. Raises whatever Pillow raises for a file that is missing or damaged."""
    return example.pixels if isinstance(example, Given) else transform(open_image(example.image))


def picture(example: Any) -> Image.Image:
    """An example's image as it is; of one that came as a tensor, stretched to its own range."""
    if not isinstance(example, Given):
        return open_image(example.image)
    low, high = example.pixels.aminmax()
    pixels = ((example.pixels - low) / (high - low).clamp_min(1e-6) * 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def unread(image: Path, error: BaseException) -> Unread:
    """Why an image cannot be read, where Pillow or the system raised ``error`` for it."""
    system = isinstance(error, MemoryError | FileNotFoundError) or getattr(error, "errno", None) is not None
    told = "" if system else mistaken(beginning(image))
    said = told or str(error).replace(str(image), image.name) or type(error).__name__
    return Unread(f"unreadable image ({said})", not system)


def none_read(examples: Sequence[Any], of: str = "") -> UserError:
    """What is said of ``examples`` (``of`` a data set) none of which can be read: the first file, and what is wrong with it."""
    first = "there is none"
    for example in examples[:1]:
        try:
            picture(example)
        except UNREADABLE as error:
            first = f"{example.image}: {unread(example.image, error).reason}"
    return UserError(f"none of the {len(examples)} images{of and f' of {of}'} could be read (first: {first}).")


def batches(
    examples: Sequence[Pictured],
    transform: Transform,
    *,
    batch_size: int,
    skipped: list[str],
    start: int = 0,
    strict: bool = False,
    reading: Reading | None = None,
) -> Iterator[Batch]:
    """Transformed images in the order of ``examples`` from ``start`` on, as ``reading`` says (None: in this process), which is told
    what they took.

    An image that cannot be read is named in ``skipped`` (key and reason) and left out, the same way in every pass; with ``strict``
    it raises `UserError`. So does a set of which nothing could be read.
    """
    reading = Reading() if reading is None else reading
    yield from reading.timed(_batches(examples, transform, batch_size, skipped, start, strict, reading))


def _batches(
    examples: Sequence[Pictured],
    transform: Transform,
    batch_size: int,
    skipped: list[str],
    start: int,
    strict: bool,
    reading: Reading,
) -> Iterator[Batch]:
    shelf = None if reading.cache is None else reading.cache.shelf(examples, transform)
    some, first = False, ""  # kept here: whoever asks may have emptied ``skipped`` since
    for got in _loaded(_Images(examples, transform, shelf), range(start, len(examples)), batch_size, reading):
        for index, problem in got.bad:
            if strict:
                raise UserError(
                    f"{examples[index].image}: {problem.reason}; mend or remove it, or run with strict=false to skip it."
                )
            skipped.append(f"{examples[index].key}: {problem.reason}")
            first = first or f"{examples[index].image}: {problem.reason}"
        if shelf is not None:
            pictures = {**dict(zip(got.good, got.images, strict=True)), **dict(got.bad)}
            for index in got.fresh:
                shelf.put(index, pictures[index])
        some = some or bool(got.good)
        tried = len(got.good) + len(got.bad)
        reading.images += tried
        yield Batch(got.good, got.images, tried)
    if not some and not start:
        raise UserError(f"none of the {len(examples)} images could be read (first: {first or 'there is none'}).")


@dataclass(frozen=True)
class _Got:
    """A batch as it was read: ``images`` of those at ``good``, what is wrong with the ``bad`` ones; ``fresh``: those that did not
    come from the cache; ``seconds`` of the process that read it."""

    good: list[int]
    images: Tensor
    bad: list[tuple[int, Unread]]
    fresh: list[int]
    seconds: float


def _gathered(items: Sequence[tuple[int, Tensor | Unread, bool, float]]) -> _Got:
    good = [(index, image) for index, image, _, _ in items if isinstance(image, Tensor)]
    return _Got(
        [index for index, _ in good],
        torch.stack([image for _, image in good]) if good else torch.empty(0),
        [(index, problem) for index, problem, _, _ in items if isinstance(problem, Unread)],
        [index for index, _, fresh, _ in items if fresh],
        sum(seconds for *_, seconds in items),
    )


def _shipped(items: Sequence[tuple[int, Tensor | Unread, bool, float]]) -> _Got:
    """In shared memory already: where there is no room for it, the thread that ships batches would lose one, to be waited for."""
    got = _gathered(items)
    got.images.share_memory_()
    return got


def _loaded(images: _Images, places: range, batch_size: int, reading: Reading) -> Iterator[_Got]:
    """Batches in order: read in this process, and by others from where ``reading`` wants some."""
    done = 0
    while done < len(places) and not (workers := reading.processes(len(places) - done)):
        here = places[done : done + batch_size]
        got = _gathered([images[index] for index in here])
        done += len(here)
        yield _told(got, reading)
    if done == len(places):
        return
    _check_sockets(workers)
    loader = DataLoader(
        images,
        batch_size,
        sampler=places[done:],
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_shipped,
        generator=torch.Generator(),  # of its own: no random number is taken from anybody
    )
    try:
        for got in loader:  # copied out of the shared memory, of which there may be little
            yield _told(replace(got, images=got.images.clone()), reading)
    except (RuntimeError, OSError) as error:
        if isinstance(error, BlockingIOError) or STARVED.search(str(error)):
            raise UserError(
                f"workers={workers}: the system ended a process that reads images, or had no room for it ({_first(error)}); give "
                "fewer workers, a smaller batch_size or more shared memory (/dev/shm); workers=0 reads in this process."
            ) from error
        raise


def _check_sockets(workers: int) -> None:
    """Raise `UserError` where no socket can be made, by which processes hand over images: who cannot is waited for."""
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        raise UserError(
            f"workers={workers}: no socket between processes can be made in {tempfile.gettempdir()} ({error.strerror or error}); "
            "set TMPDIR to a folder with a shorter path that can be written to, or workers=0, which reads in this process."
        ) from error


def _first(error: BaseException) -> str:
    """The first line that says what happened; of an error in a process torch puts the trace of that before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if len(lines) > 1 else "".join(lines)).partition(". ")[0]


def _told(got: _Got, reading: Reading) -> _Got:
    count = len(got.good) + len(got.bad)
    reading.read += count
    reading.cached += count - len(got.fresh)
    reading.busy += got.seconds
    reading.size = max(reading.size, got.images.nbytes // max(1, len(got.good)))
    return got


class _Images(torch.utils.data.Dataset[tuple[int, Tensor | Unread, bool, float]]):
    """(index, image or what is wrong with it, whether it was made just now, seconds): an exception must not stop a worker."""

    def __init__(self, examples: Sequence[Pictured], transform: Transform, shelf: Shelf | None) -> None:
        self.examples, self.transform, self.shelf = examples, transform, shelf

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, Tensor | Unread, bool, float]:
        began = time.perf_counter()
        kept = None if self.shelf is None else self.shelf.get(index)
        found = self._made(index) if kept is None else kept
        return index, found, kept is None, time.perf_counter() - began

    def _made(self, index: int) -> Tensor | Unread:
        try:
            return transformed(self.examples[index], self.transform)
        except UNREADABLE as error:
            return unread(self.examples[index].image, error)


class Kept:
    """Batches of transformed images, kept from the first pass over them for the passes that follow, as far as ``room`` bytes go.

    What finds no room is read again in every pass.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._seen: dict[Any, _Seen] = {}

    def batches(
        self,
        examples: Sequence[Pictured],
        transform: Transform,
        *,
        batch_size: int,
        skipped: list[str],
        strict: bool = False,
        reading: Reading | None = None,
    ) -> Iterator[Batch]:
        """As `batches`, the same batches in every pass."""
        reading = Reading() if reading is None else reading
        yield from reading.timed(self._batches(examples, transform, batch_size, skipped, strict, reading))

    def _batches(
        self,
        examples: Sequence[Pictured],
        transform: Transform,
        batch_size: int,
        skipped: list[str],
        strict: bool,
        reading: Reading,
    ) -> Iterator[Batch]:
        seen = self._seen.setdefault((id(examples), transform, batch_size), _Seen(examples))
        for batch, told in seen.batches:
            skipped += told
            reading.images += batch.tried
            yield batch
        start = sum(batch.tried for batch, _ in seen.batches)
        if start == len(examples) > 0:
            return
        lines: list[str] = []
        for batch in _batches(examples, transform, batch_size, lines, start, strict, reading):
            skipped += lines
            size = batch.images.nbytes
            if size <= self.room and not seen.full:
                seen.batches.append((batch, [*lines]))
                self.room -= size
            else:
                seen.full = True
            lines.clear()
            yield batch


@dataclass
class _Seen:
    """What is kept of one set of examples, whose list is held so that its id stays its own."""

    examples: Sequence[Pictured]
    batches: list[tuple[Batch, list[str]]] = field(default_factory=list)
    full: bool = False
