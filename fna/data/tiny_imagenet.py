"""Tiny-ImageNet, as it is downloaded or as a folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fna.data import files
from fna.data.bank import LabelledDataset, part_note
from fna.data.base import Labelled
from fna.data.imagefolder import ImageFolder
from fna.data.layouts import TINY_LABELS
from fna.data.pictures import files_below, is_picture, system_note, unread_note
from fna.errors import UserError
from fna.values import counted


@dataclass(frozen=True)
class TinyImageNet(ImageFolder):
    """The archive's own val folder (``val/images/*.JPEG`` with labels in ``val/val_annotations.txt``), or an image folder.

    Labels follow the sorted WordNet ids, as in every image folder, or the TSV ``classes``.
    """

    name: str = "tiny_imagenet"

    def class_names(self) -> list[str]:
        """WordNet ids, from the file of labels or the folders' names."""
        source = self._annotations()
        return sorted(set(_read_labels(source).values())) if source.is_file() else super().class_names()

    def read(self, limit: int | None) -> LabelledDataset:
        """The first ``limit`` images, by class and then by name. Raises `UserError` for a file without label or a foreign class."""
        source = self._annotations()
        if not source.is_file():
            return super().read(limit)
        wnid = _read_labels(source)
        images = source.parent / "images"
        found = sorted(wnid.values())
        known = sorted(set(found))
        ids, names, listed = files.classes_of(self.classes, known) if self.classes else (known, known, [])
        unknown = sorted(set(known) - set(ids))
        if unknown:
            raise UserError(f"{self.classes}: lacks {len(unknown)} of the classes in {source} (first: {unknown[0]}).")
        label = {name: place for place, name in enumerate(ids)}
        order = sorted(wnid, key=lambda name: (wnid[name], name))
        whole = [Labelled(f"{wnid[name]}/{name}", images / name, label[wnid[name]]) for name in order]
        examples = files.first(whole, limit)
        split = self._split_name(source.parent)
        bare = sum(is_picture(path) and path.name not in wnid for path in files_below(images))
        notes = listed + [f"{counted(bare, 'picture')} left out: {source.name} gives no label"] * bool(bare)
        notes += [*unread_note(images / name for name in order), *system_note(images), *part_note(examples, whole)]
        digest = files.digest(split, examples, mend="unpack tiny-imagenet-200.zip again")
        return LabelledDataset(self.name, split, self.domain, digest, examples, names, ids, notes)

    def _annotations(self) -> Path:
        """The file of labels, which is the val split's alone."""
        return self._folder() / TINY_LABELS


def _read_labels(source: Path) -> dict[str, str]:
    """File name -> WordNet id. Raises `UserError` for what is no table of them."""
    try:
        rows = [line.split("\t") for line in source.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        pairs = [(row[0], row[1].strip()) for row in rows]
    except (UnicodeDecodeError, IndexError) as error:
        raise UserError(f"{source}: no table of file name and WordNet id ({error}); unpack tiny-imagenet-200.zip again.") from error
    found = dict(pairs)
    bare = next((name for name, label in pairs if not label), None)
    other = next((name for name, label in pairs if found[name] != label), None)
    if bare or other:
        raise UserError(f"{source}: {bare or other} has {'no label' if bare else 'two labels'}; give each picture one.")
    if len(set(found.values())) < 2:
        raise UserError(f"{source}: names {len(set(found.values()))} class; unpack tiny-imagenet-200.zip again.")
    return found
