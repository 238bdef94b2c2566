"""LLaVA-Bench: open questions about images, each with a reference answer and, for a judge without eyes, the image in words.

Three files of a JSON object a line, as LLaVA's authors publish them. Questions: ``question_id``, ``image``, ``text``, ``category``.
Reference answers: ``question_id``, ``text``. Contexts: ``image`` and ``captions`` with ``instances`` (``category``, ``bbox`` as
x1, y1, x2, y2 in 0..1) in the COCO version, ``image`` and ``caption`` in the one in the wild.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image

from fna.data import files
from fna.data.asked import lines
from fna.data.base import Dataset, OpenQuestion
from fna.data.entries import Entry, by_ident
from fna.data.places import by_name, existing
from fna.errors import UserError
from fna.folders import cache_folder
from fna.records import write_atomic
from fna.values import counted

COCO = "COCO_val2014_"  # what COCO puts before the names that the questions have
GREY = (336, (128, 128, 128))


@dataclass(frozen=True)
class LlavaBench:
    """``questions``, ``answers``, ``context`` (None: the judge is told nothing of the image) and ``images``: names in ``root``.

    ``missing``: of an image that is not there the questions are left out ("skip"), or asked about a grey picture in its place
    ("grey"), which says nothing of sight; both are noted.
    """

    root: str
    questions: str = "questions.jsonl"
    answers: str = "answers_gpt4.jsonl"
    context: str | None = "context.jsonl"
    images: str = "images"
    missing: Literal["skip", "grey"] = "skip"
    domain: ClassVar[str] = "photographs"
    split: ClassVar[str] = "test"
    gives: ClassVar[type] = OpenQuestion

    def check(self) -> None:
        """Raise `UserError` for files that are not there."""
        root = Path(self.root)
        files.check_folder(root)
        for knob in ("questions", "answers", "context"):
            if getattr(self, knob) is not None:
                files.check_file(root / getattr(self, knob), f"dataset.{knob}")

    def load(self, limit: int | None) -> Dataset:
        """The first ``limit`` questions that can be asked. Raises `UserError` for a field that is missing, and where no image is
        there."""
        self.check()
        root = Path(self.root)
        answers = by_ident(lines(root / self.answers), "question_id")
        references = {ident: entry.text("text") for ident, entry in answers.items()}
        told = {} if self.context is None else by_ident(lines(root / self.context), "image")
        said = {image: in_words(entry) for image, entry in told.items()}
        asked = lines(root / self.questions)
        called = by_name((entry.text("image") for entry in asked), [*said])
        contexts = {name: said[image] for name, image in called.items()}
        read: list[Any] = [self._question(entry, references, contexts) for entry in asked]
        if not read:
            raise UserError(f"{root / self.questions}: holds no question; give another with dataset.questions=PATH.")
        read, notes = self._present(read) if self.missing == "skip" else _in_grey(files.first(read, limit))
        examples = files.first(read, limit)
        categories = list(dict.fromkeys(one.category for one in examples))
        return Dataset(
            "llava_bench", self.split, self.domain, files.digest(self.split, examples), examples, categories, notes=notes
        )

    def _present(self, read: list[Any]) -> tuple[list[Any], list[str]]:
        """Those whose image is there, and a note of the others."""
        there = [one for one in read if one.image.is_file()]
        if not there:
            raise UserError(
                f"{Path(self.root) / self.images}: {_absent(read)}; put COCO's val2014 there, or ask without sight "
                "(dataset.missing=grey)."
            )
        return there, [f"{_absent(read)}: left out"] * (len(there) < len(read))

    def _question(self, entry: Entry, references: Mapping[str, str], contexts: Mapping[str, str]) -> OpenQuestion:
        key, name = entry.ident("question_id"), entry.text("image")
        text = entry.text("text").replace("<image>", "").strip()
        if key not in references:
            raise UserError(f"{entry.where}: question_id {key} has no reference answer in {self.answers}; give each question one.")
        if self.context is not None and name not in contexts:
            raise UserError(
                f"{entry.where}: nothing is said of {name} in {self.context}; add it, or leave all out (dataset.context=null)."
            )
        folder = Path(self.root) / self.images
        places = [existing(folder / name), folder / f"{COCO}{name}"]
        place = next((one for one in places if one.is_file()), places[0])
        return OpenQuestion(key, place, text, entry.text("category"), references[key], contexts.get(name, ""))


def in_words(entry: Entry) -> str:
    """What a context says of its image: its captions a line each, then its boxes."""
    if "caption" in entry.fields:
        return str(entry.text("caption"))
    captions = entry.fields.get("captions")
    if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
        raise entry.wrong("captions", "a list of texts")
    boxes = [_box(one) for one in (entry.entries("instances") if "instances" in entry.fields else [])]
    told = [one.strip() for one in captions]
    return "\n".join(told + (["", "Boxes, as x1, y1, x2, y2 from 0 to 1:", *boxes] if boxes else []))


def _box(entry: Entry) -> str:
    box = entry.fields.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(end, int | float) for end in box):
        raise entry.wrong("bbox", "a list of 4 numbers")
    return f"{entry.text('category')}: {', '.join(f'{end:g}' for end in box)}"


def _absent(read: list[Any]) -> str:
    """How many questions lack their image, and which image comes first."""
    names = [one.image.name for one in read if not one.image.is_file()]
    return (
        f"of {counted(len(names), 'question')} the image is not there ({counted(len(set(names)), 'image')}, {names[0]} first)"
        if names
        else ""
    )


def _in_grey(read: list[Any]) -> tuple[list[Any], list[str]]:
    """All of them, with a grey picture where there is none, and a note of that."""
    told = _absent(read)
    if not told:
        return read, []
    grey = _grey()
    found = [one if one.image.is_file() else replace(one, image=grey) for one in read]
    return found, [f"{told}: asked about a grey picture in its place, which says nothing of sight"]


def _grey() -> Path:
    """A grey picture in the cache folder."""
    path, held = cache_folder() / "grey.png", io.BytesIO()
    Image.new("RGB", (GREY[0], GREY[0]), GREY[1]).save(held, "PNG")
    if not path.is_file() or path.read_bytes() != held.getvalue():
        write_atomic(path, held.getvalue())
    return path
