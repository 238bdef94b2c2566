"""Files that annotations name with folders, and where they were found instead: another split is refused, the rest is said.

Tools write names as paths of the machine that they ran on (``C:\\data\\images\\a.jpg``, ``/data/upload/1/a.jpg``), of which only
the last part tells a file here. Where the folders say train and the files lie in val, they are other pictures of the same name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from fna.data.called import SPLIT, paired
from fna.data.entries import Entry
from fna.data.places import composed, existing
from fna.errors import UserError

# The parts of a data set that a word may stand for; words that two parts share do not tell them apart.
MEANT = {
    **dict.fromkeys(("train", "training", "trn"), ("train",)),
    **dict.fromkeys(("val", "valid", "validation", "dev"), ("val",)),
    **dict.fromkeys(("test", "testing", "tst"), ("test", "query", "gallery")),
    **dict.fromkeys(("eval", "evaluation", "holdout"), ("val", "test")),
    **dict.fromkeys(("query", "queries"), ("query",)),
    **dict.fromkeys(("unlabeled", "unlabelled"), ("unlabelled",)),
    "trainval": ("train", "val"),
    "gallery": ("gallery",),
}
_WORD = re.compile("|".join(sorted(MEANT, key=len, reverse=True)))
_NUMBERED = re.compile(r"(fold|split|subset)[\W_]*(\d+)")


def locate(name: str, folder: Path, root: Path) -> Path:
    """The file that a name means: as it stands in ``folder`` or ``root``, else its last part; the first where none is there.

    Of an address its path counts. Folders may be divided as on Windows, from where archives also bring files with such names.
    """
    path = written(name)
    choices = [folder / path, root / path, folder / name, root / name, folder / path.rpartition("/")[2]]
    return next((found for found in map(existing, choices) if found.is_file()), choices[0])


def located(entry: Entry, name: str, folder: Path, root: Path) -> Path:
    """`locate` of a name that stands in ``entry``. Raises `UserError` that says where for what is no name of a file."""
    try:
        return locate(name, folder, root)
    except (OSError, ValueError) as error:  # a picture itself as data:image/png;base64,...; half an address
        field = next(field for field, value in entry.fields.items() if value == name)
        raise entry.wrong(field, "the name of a file") from error


def written(name: str) -> str:
    """The path that a name is: of an address its path, divided as here whatever system wrote it."""
    return unquote(urlsplit(name).path).lstrip("/") if "://" in name else os.path.normpath(name.replace("\\", "/"))


def elsewhere(found: Iterable[tuple[str, str, Path]], folder: Path, root: Path) -> list[str]:
    """Notes of how many files lie in another folder than the one they are named with; none where none does.

    ``found``: where the name stands ("captions.json: images[3]"), the name, and the file as `locate` gave it. Raises `UserError`
    where that is a file of another split.
    """
    found = list(found)
    moved = [one for one in found if not _as_named(*one[1:])]
    for where, name, path in moved:
        if _other_split(_folders(name), _below(path.parent, root)):
            raise UserError(
                f"{where}: {name} is not there, and {path} is of another split ({len(moved)} of {len(found)} file names give other "
                f"folders than those they are in); give the images in the folders that are named, or the annotations of these."
            )
    told = [(name, path) for _, name, path in moved if not _agree(_folders(name), _below(path.parent, root))]
    strayed = [(name, path) for _, name, path in found if not _folders(name) and path.parent != folder]
    notes = []
    if told:
        name, path = told[0]
        notes.append(
            f"{len(told)} of {len(found)} file names give another folder ({'/'.join(_folders(name)[-2:])}) than the one they were "
            f"found in by their last part ({path.parent.name}; first: {name})"
        )
    if strayed:
        name, path = strayed[0]
        notes.append(f"{len(strayed)} of {len(found)} images lie in {path.parent}, not in {folder} (first: {name})")
    return notes


def _folders(name: str) -> Sequence[str]:
    """The folders in a name as annotations have it."""
    return [part for part in PurePosixPath(composed(written(name))).parts[:-1] if part.strip("/") not in ("", "..")]


def _as_named(name: str, path: Path) -> bool:
    """Whether a file lies in the very folders that its name gives; a name without any says nothing of them."""
    named = _folders(name)
    return not named or _folders(path.as_posix())[-len(named) :] == named


def _below(folder: Path, root: Path) -> Sequence[str]:
    """The folders from the root on, itself included; the last two of one that lies elsewhere."""
    parts, above = (Path(os.path.abspath(path)).parts for path in (folder, root))
    return parts[len(above) - 1 :] if parts[: len(above)] == above else parts[-2:]


def _agree(named: Sequence[str], here: Sequence[str]) -> bool:
    """Whether nothing is to be said: the last folder is the same, and no split is named that the other leaves open."""
    return named[-1] == composed(here[-1]) and (not any(_split_of(named)) or any(_split_of(here)))


def _other_split(named: Sequence[str], here: Sequence[str]) -> bool:
    """Whether the folders are called as parts of a data set that have no picture in common."""
    ones, others = _split_of(named), _split_of(here)
    if len(paired([named[-1], here[-1]])) == 2:  # cat_train and cat_val
        ones, others = _meant(named[-1]), _meant(here[-1])
    return any(one and other and not one & other for one, other in zip(ones, others, strict=True))


def _split_of(folders: Sequence[str]) -> tuple[set[str], set[str]]:
    """What the last folder called as a split is may mean, in words and by number; nothing where none is."""
    called = (_meant(name) for name in reversed(folders) if SPLIT.fullmatch(name))
    return next((meant for meant in called if any(meant)), (set(), set()))


def _meant(name: str) -> tuple[set[str], set[str]]:
    words, numbers = _WORD.findall(name.lower()), _NUMBERED.findall(name.lower())
    return {part for word in words for part in MEANT[word]}, {"".join(pair) for pair in numbers}
