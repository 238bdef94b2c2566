"""Images as a transform prepares them, kept on disk as bytes: a later run over the same pictures neither decodes nor resizes them.

A part is up to `PART` pictures that follow each other in a data set, two files in ``images/<what the transform does>/`` of the
cache folder, named by what the pictures hold: ``.safetensors`` with a tensor a picture, read through a memory map, and ``.json``,
written last, with the digest of the first, how each picture is kept, and why one cannot be read. What does not fit its digest is
missing and made again. Nothing is written through a map: there a full disk would be a bus error. Several processes may make the
same part at once, each for itself; what they write is the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import features
from torch import Tensor

from fna.data.contents import UNREADABLE, sha256s
from fna.errors import UserError
from fna.folders import ANOTHER, cache_folder
from fna.records import file_digest, make_way, read_record, unwritten, write_atomic, write_record

PART = 32  # pictures
RESERVE = 1 << 30  # bytes that are left to others: rows, results
PIXELS, WHOLE = "pixels", "whole"  # as bytes that the last step makes floats of, or as the transform gave it
LIBRARIES = ("torch", "torchvision", "pillow", "numpy")
CODECS = ("libjpeg_turbo", "jpg", "jpg_2000", "zlib", "libtiff", "webp")
READERS = ("fna.data.pictures", "fna.data.prepared")  # what a picture goes through beside the transform


@dataclass(frozen=True)
class Unread:
    """An image that cannot be read; ``lasting``: its content says so, whoever tries again."""

    reason: str
    lasting: bool


class Cache:
    """The cache folder's images. ``tell`` is told once of each thing that keeps images out of it; ``told`` holds these lines."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.told: list[str] = []
        self._shelves: dict[Any, tuple[Sequence[Any], Shelf | None]] = {}

    def shelf(self, examples: Sequence[Any], transform: Any) -> Shelf | None:
        """What is kept of these pictures; None where nothing can be: they are no files, or nobody knows what the transform does."""
        key = (id(examples), transform)
        if key not in self._shelves:  # the list is held so that its id stays its own
            self._shelves[key] = (examples, self._shelf(examples, transform))
        return self._shelves[key][1]

    def _shelf(self, examples: Sequence[Any], transform: Any) -> Shelf | None:
        if not all(hasattr(example, "image") for example in examples):
            return None
        does = what_it_does(transform)
        if does is None:
            self.tell("the model's transform cannot be told from others, images are prepared anew in every run")
            return None
        try:
            return Shelf(cache_folder() / "images" / does, [example.image for example in examples], transform, self.tell)
        except (OSError, UserError) as error:  # a picture went meanwhile, a user without a home
            self.tell(f"{str(error).rstrip('.')}; the run goes on without it")
            return None

    def tell(self, sentence: str) -> None:
        """Say a sentence, once."""
        line = f"data_cache: {sentence}"
        if line not in self.told:
            self.told.append(line)
            self._tell(line)


class Shelf:
    """The parts of one list of pictures, prepared by one transform."""

    def __init__(self, folder: Path, pictures: Sequence[Path], transform: Any, tell: Callable[[str], None]) -> None:
        self.folder, self.pictures, self.bytes, self._tell = folder, pictures, Bytes(transform), tell
        self._signs = [_sign(path) for path in pictures]  # before they are read
        held = sha256s(path for path, sign in zip(pictures, self._signs, strict=True) if sign is not None)
        self._keys = [_key([(path.name, held.get(path, UNREADABLE)) for path in part]) for part in _parts(pictures)]
        self._writes = True
        self._last: tuple[int, _Part | None] = (-1, None)
        self._begun: tuple[int, dict[int, Tensor | Unread]] = (-1, {})

    def __getstate__(self) -> dict[str, Any]:
        """For a process that reads: without open files, and without a word to say."""
        return {**self.__dict__, "_last": (-1, None), "_begun": (-1, {}), "_tell": None}

    def get(self, index: int) -> Tensor | Unread | None:
        """What the transform makes of the picture at ``index``, to the bit; None where that is not kept."""
        number, place = divmod(index, PART)
        if self._last[0] != number:
            key = self._keys[number]
            self._last = (number, None if key is None else _Part.opened(self.folder / key))
        part = self._last[1]
        return None if part is None else part.get(place, self.bytes)

    def put(self, index: int, picture: Tensor | Unread) -> None:
        """Keep what was just made of the picture at ``index``: pictures come in order, a part is written with its last one."""
        number, place = divmod(index, PART)
        if not self._writes or self._keys[number] is None or (isinstance(picture, Unread) and not picture.lasting):
            return
        if self._begun[0] != number:
            self._begun = (number, {})
        pictures = self._begun[1]
        pictures[place] = picture
        first = number * PART
        if len(pictures) == len(self.pictures[first : first + PART]):
            self._begun = (-1, {})
            self._write(number, pictures)

    def _write(self, number: int, pictures: dict[int, Tensor | Unread]) -> None:
        """Write a part, unless a picture changed since its content was looked at. What cannot be written ends the writing."""
        own = range(number * PART, number * PART + len(pictures))
        if any(_sign(self.pictures[index]) != self._signs[index] for index in own):
            return
        images = {str(place): self.bytes.put(image) for place, image in pictures.items() if isinstance(image, Tensor)}
        unread = {str(place): problem.reason for place, problem in pictures.items() if isinstance(problem, Unread)}
        if any(how == WHOLE and image.is_floating_point() for image, how in images.values()):
            self._tell("images that do not come back from bytes to the bit are kept as floats, which takes four times the room")
        data = safetensors.torch.save({place: image for place, (image, _) in images.items()})
        file = self.folder / f"{self._keys[number]}.safetensors"
        try:
            self._check_room(len(data) * (len(self._keys) - number))
            make_way(file)
            write_atomic(file, data)
            digest = hashlib.sha256(data).hexdigest()
            kept = {place: how for place, (_, how) in images.items()}
            write_record(file.with_suffix(".json"), {"sha256": digest, "kept": kept, "unread": unread})
        except UserError as error:
            self._writes = False
            self._tell(f"{str(error).rstrip('.')}; the run goes on without it")
        self._last = (-1, None)

    def _check_room(self, size: int) -> None:
        """Raise `UserError` where what is still to be written would leave others less than `RESERVE`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(self.folder, error, ANOTHER) from error
        free = shutil.disk_usage(self.folder).free
        if free < size + RESERVE:
            raise UserError(
                f"{self.folder}: {size / 1e9:.1f} GB to be written, {free / 1e9:.1f} free, of which {RESERVE / 1e9:.1f} are left "
                "to others; free some room there or give another folder with FNA_CACHE=PATH"
            )


@dataclass(frozen=True)
class _Part:
    """A part that is whole: ``file`` gives a tensor by its name."""

    file: Any
    kept: dict[str, str]
    unread: dict[str, str]

    @classmethod
    def opened(cls, stem: Path) -> _Part | None:
        """The part, or None where it is missing or not what was written."""
        file, record = stem.with_suffix(".safetensors"), read_record(stem.with_suffix(".json"))
        try:
            if record is None or file_digest(file).hexdigest() != record["sha256"]:
                return None
            return cls(safetensors.safe_open(file, "pt"), record["kept"], record["unread"])
        except OSError:
            return None

    def get(self, place: int, pixels: Bytes) -> Tensor | Unread:
        name = str(place)
        if name in self.unread:
            return Unread(self.unread[name], True)
        image: Tensor = self.file.get_tensor(name)
        return pixels.back(image) if self.kept[name] == PIXELS else image


class Bytes:
    """Images of a transform whose last step, if any, scales channels, as the bytes that they were before."""

    def __init__(self, transform: Any) -> None:
        last = (getattr(transform, "transforms", None) or [None])[-1]
        self._scale = last if hasattr(last, "mean") and hasattr(last, "std") else None
        self._mean = torch.as_tensor([0.0] if self._scale is None else last.mean)[:, None, None]
        self._std = torch.as_tensor([1.0] if self._scale is None else last.std)[:, None, None]

    def back(self, pixels: Tensor) -> Tensor:
        """uint8 ``[3, h, w]`` as the transform gives it: float32."""
        image = pixels.to(torch.float32).div(255)
        return image if self._scale is None else self._scale(image)

    def put(self, image: Tensor) -> tuple[Tensor, str]:
        """An image and how it is kept: as bytes if these give every bit of it back, else whole."""
        if image.dtype == torch.float32:
            pixels = image.mul(self._std).add(self._mean).mul(255).round().clamp(0, 255).byte()
            if torch.equal(self.back(pixels).view(torch.int32), image.view(torch.int32)):
                return pixels, PIXELS
        return image.clone(), WHOLE


def what_it_does(transform: Any) -> str | None:
    """A digest of a transform with its settings and code, and of the libraries that read and resize pictures for it.

    None where it cannot be told from others: a lambda, a function inside a function.
    """
    file = io.BytesIO()
    try:
        _Sayer(file, 3).dump(transform)  # the last protocol that names what it imports in one piece
    except Exception:  # whatever its parts raise
        return None
    said = file.getvalue()
    named = {str(value).partition(" ")[0] for code, value, _ in pickletools.genops(said) if code.name == "GLOBAL"}
    code = {name: _code(name) for name in sorted({*named, *READERS})}
    with_what = {name: version(name) for name in LIBRARIES} | {name: features.version(name) for name in CODECS}
    decides = [hashlib.sha256(said).hexdigest(), code, with_what, platform.python_version(), platform.machine()]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:20]


class _Sayer(pickle.Pickler):
    """Tensors by what they hold: as torch pickles them, there is an address in it."""

    def reducer_override(self, part: Any) -> Any:
        return (str, (f"{part.dtype} {part.tolist()}",)) if isinstance(part, Tensor) else NotImplemented


def _code(module: str) -> str:
    """The digest of a module's file; of one that is built into Python nothing, whose version tells it."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return "" if file is None else str(file_digest(Path(file)).hexdigest())


def _parts(pictures: Sequence[Path]) -> list[Sequence[Path]]:
    return [pictures[first : first + PART] for first in range(0, len(pictures), PART)]


def _key(pictures: Sequence[tuple[str, str]]) -> str | None:
    """Of names (a reason may hold them) and contents; None where one is not there or cannot be opened."""
    if any(held == UNREADABLE for _, held in pictures):
        return None
    return hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:32]


def _sign(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; None where there is no file."""
    try:
        at = path.stat()
    except OSError:
        return None
    return at.st_size, at.st_mtime_ns, at.st_ctime_ns
