"""Captioning as a question: Nocaps and Flickr30k in their official files, each image asked for one sentence."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from fna.data import asked, files
from fna.data.asked import AskedDataset, Found, Told
from fna.data.asked_files import Questions
from fna.data.base import Asked
from fna.data.coco_format import by_picture, pictures
from fna.data.entries import read
from fna.errors import UserError

QUESTION = "Provide a one-sentence caption for the provided image."
ALL = "all"  # the split of a file that knows none
LONGEST = 64  # tokens, as lmms-eval has it


@dataclass(frozen=True)
class _Captions(Questions):
    """Images asked for a caption; the accepted answers are their captions. CIDEr needs the package pycocoevalcap."""

    def check(self) -> None:
        """Raise `UserError` where root, captions, images or the package are not there."""
        super().check()
        if importlib.util.find_spec("pycocoevalcap") is None:
            raise UserError(f"{self.name}: CIDEr is computed by pycocoevalcap, which is not installed: pip install pycocoevalcap.")

    def _captioned(self, found: list[Found], limit: int | None, notes: list[str]) -> AskedDataset:
        data = self._dataset(found, limit, "cider", _captions, LONGEST, suffix="")
        data.notes += notes
        return data


@dataclass(frozen=True)
class Nocaps(_Captions):
    """nocaps_val_4500_captions.json, in COCO's format: ten captions an image; kinds are its domains (in, near, out)."""

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` images. Raises `UserError` with file and entry."""
        self.check()
        source = self._sources()[0]
        content = read(source, "no captions file of nocaps", "images", "annotations")
        known, notes = pictures(content, self._images, Path(self.root))
        told, stray = by_picture(content, known)
        found = []
        for ident, picture in known.items():
            captions = tuple(note.text("caption").strip() for note in told.get(ident, []))
            if not captions:
                raise UserError(f"{picture.entry.where}: image {ident} has no captions; take nocaps_val_4500_captions.json.")
            example = Asked(ident, picture.path, QUESTION, captions, picture.entry.text("domain", ""))
            found.append(Found(example, picture.entry.where))
        return self._captioned(found, limit, [*notes, *stray])


@dataclass(frozen=True)
class Flickr30k(_Captions):
    """results_20130124.token (a line a caption: IMAGE#NUMBER, a tab, the caption), which holds all splits as one, or Karpathy's
    dataset_flickr30k.json with its ``split``."""

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` images. Raises `UserError` with file and line."""
        self.check()
        source = self._sources()[0]
        splits = source.suffix == ".json"
        told = self._of_karpathy(source) if splits else _of_tokens(source)
        asks = [Asked(name, self._at(name), QUESTION, tuple(captions)) for name, captions in told.items()]
        notes = [] if splits else [f"{source.name} knows no splits: its images are taken as they come, of all of them"]
        data = self._captioned([Found(one, f"{source}: {one.key}") for one in asks], limit, notes)
        return data if splits else replace(data, split=ALL)

    def _of_karpathy(self, source: Path) -> dict[str, list[str]]:
        entries = read(source, "not in Karpathy's format", "images").entries("images")
        chosen = [entry for entry in entries if entry.text("split") == self.split]
        return {entry.text("filename"): [one.text("raw").strip() for one in entry.entries("sentences")] for entry in chosen}


def _of_tokens(source: Path) -> dict[str, list[str]]:
    """File name -> captions, in the file's order."""
    found: dict[str, list[str]] = defaultdict(list)
    lines = files.read_text(source).split("\n")  # a caption may hold what str.splitlines takes for an end
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        name, hash_, _ = name.rpartition("#")
        if not tab or not hash_ or not caption.strip():
            raise UserError(f"{source}, line {number}: is not IMAGE#NUMBER, a tab and a caption; give results_20130124.token.")
        found[name].append(caption.strip())
    return found


def _captions(told: Told) -> str:
    """COCO's and nocaps' servers take a list of image_id and caption."""
    return json.dumps([{"image_id": asked.with_number(one.key), "caption": said} for one, said in told], indent=0)
