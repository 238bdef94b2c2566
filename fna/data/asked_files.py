"""Questions about images in the files of each benchmark: VQAv2, TextVQA, GQA, DocVQA, OCRBench, ScienceQA, POPE, and one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fna.data import asked, files
from fna.data.asked import LETTER, SHORT, AskedDataset, Found, Scoring, Submit, Told
from fna.data.base import Asked
from fna.data.elsewhere import elsewhere, located
from fna.data.entries import Entry, by_ident, table
from fna.data.places import existing
from fna.errors import UserError
from fna.values import Count, Domain


@dataclass(frozen=True)
class Questions:
    """``questions``: the file, and ``images`` the folder, both in ``root``. ``split``: what the file holds, or which part of it."""

    root: str
    questions: str
    images: str
    split: str = "val"
    domain: Domain = "photographs"
    name: str = "questions"
    gives: ClassVar[type] = Asked

    def check(self) -> None:
        """Raise `UserError` where root, questions or images are not there."""
        files.check_folder(Path(self.root))
        for source in self._sources():
            files.check_file(source, "dataset.questions")
        files.check_folder(self._images, "dataset.images")

    def _sources(self) -> list[Path]:
        return [Path(self.root) / self.questions]

    @property
    def _images(self) -> Path:
        return Path(self.root) / self.images

    def _at(self, name: str) -> Path:
        """The image of that name."""
        return existing(self._images / name)

    def _dataset(
        self,
        found: Sequence[Found],
        limit: int | None,
        scoring: Scoring,
        submit: Submit | None,
        longest: int = 16,
        suffix: str = SHORT,
    ) -> AskedDataset:
        examples, digest = asked.chosen(found, limit, self._sources()[0], self.split)
        return AskedDataset(
            self.name, self.split, self.domain, digest, examples, suffix=suffix, scoring=scoring, longest=longest, submit=submit
        )


@dataclass(frozen=True)
class VqaV2(Questions):
    """v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json; COCO's images under either name."""

    annotations: str = "v2_mscoco_val2014_annotations.json"

    def _sources(self) -> list[Path]:
        return [Path(self.root) / self.questions, Path(self.root) / self.annotations]

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and entry."""
        self.check()
        questions, annotations = self._sources()
        told = by_ident(asked.listed(annotations, "annotations"), "question_id")
        found = []
        for entry in asked.listed(questions, "questions"):
            key = entry.ident("question_id")
            if key not in told:
                raise UserError(f"{entry.where}: question {key} has no entry in {annotations}; give the file that fits.")
            note = told[key]
            given = Entry({"answers": [each.text("answer") for each in note.entries("answers")]}, note.where)
            example = Asked(
                key,
                self._image(entry.whole("image_id")),
                entry.text("question"),
                asked.answers(given, people=True),
                note.text("answer_type", ""),
            )
            found.append(Found(example, entry.where))
        return self._dataset(found, limit, "vqav2", _by("question_id", "answer"))

    def _image(self, number: int) -> Path:
        named = [self._images / f"COCO_{self.split}_{number:012d}.jpg", self._images / f"{number:012d}.jpg"]
        return next((path for path in named if path.exists()), named[0])


@dataclass(frozen=True)
class TextVqa(Questions):
    """TextVQA_0.5.1_val.json; images are named by their id.

    ``ocr``: TextVQA_Rosetta_OCR_v0.2_val.json; its words stand behind each question, as LLaVA's authors and, where asked for it,
    lmms-eval put them. None: none.
    """

    ocr: str | None = None

    def _sources(self) -> list[Path]:
        return [Path(self.root) / name for name in (self.questions, self.ocr) if name is not None]

    def _words(self) -> dict[str, str]:
        """Image id -> a line with the words that an OCR read in it."""
        if self.ocr is None:
            return {}
        entries = by_ident(asked.listed(self._sources()[1], "data"), "image_id")
        return {image: f"\nReference OCR token: {', '.join(_texts(one, 'ocr_tokens'))}" for image, one in entries.items()}

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and entry."""
        self.check()
        words = self._words()
        found = []
        for entry in asked.listed(self._sources()[0], "data"):
            image = entry.ident("image_id")
            if words and image not in words:
                raise UserError(f"{entry.where}: image {image} has no words in {self._sources()[1]}; give the file that fits.")
            question = entry.text("question").capitalize() + words.get(image, "")
            answers = asked.answers(entry, people=True)
            found.append(Found(Asked(entry.ident("question_id"), self._at(f"{image}.jpg"), question, answers), entry.where))
        return self._dataset(found, limit, "textvqa", _by("question_id", "answer"))


@dataclass(frozen=True)
class Gqa(Questions):
    """testdev_balanced_questions.json: an object of id -> question; kinds are its structural types."""

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and entry."""
        self.check()
        found = []
        for key, entry in asked.mapped(self._sources()[0]):
            types = entry.fields.get("types")
            kind = types.get("structural") if isinstance(types, dict) else ""
            image = self._at(f"{entry.ident('imageId')}.jpg")
            example = Asked(key, image, entry.text("question"), asked.answers(entry, "answer"), str(kind or ""))
            found.append(Found(example, entry.where))
        return self._dataset(found, limit, "gqa", _by("questionId", "prediction", str))


@dataclass(frozen=True)
class DocVqa(Questions):
    """val_v1.0.json (or the one with question types, of which the first counts); images lie where each entry says."""

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and entry."""
        self.check()
        found = []
        for entry in asked.listed(self._sources()[0], "data"):
            types = entry.fields.get("question_types")
            kind = str(types[0]) if isinstance(types, list) and types else ""
            image = self._at(entry.text("image"))
            example = Asked(entry.ident("questionId"), image, entry.text("question"), asked.answers(entry), kind)
            found.append(Found(example, entry.where))
        return self._dataset(found, limit, "anls", _by("questionId", "answer"), longest=32)


@dataclass(frozen=True)
class OcrBench(Questions):
    """OCRBench.json: a list; kinds are its types, and HME100k by its name, for its formulas are scored otherwise."""

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and entry."""
        self.check()
        found = []
        for place, entry in enumerate(asked.listed(self._sources()[0])):
            name = entry.text("dataset_name", "")
            kind = name if name == "HME100k" else entry.text("type", "")
            image = self._at(entry.text("image_path"))
            example = Asked(entry.ident("id", str(place)), image, entry.text("question"), asked.answers(entry), kind)
            found.append(Found(example, entry.where))
        return self._dataset(found, limit, "ocrbench", _by("id", "predict"), longest=128, suffix="")


@dataclass(frozen=True)
class ScienceQa(Questions):
    """problems.json and pid_splits.json; only questions with an image (IMG). Kinds are the subjects."""

    splits: str = "pid_splits.json"
    letters: ClassVar[str] = "ABCDE"

    def _sources(self) -> list[Path]:
        return [Path(self.root) / self.questions, Path(self.root) / self.splits]

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and entry."""
        self.check()
        problems, splits = self._sources()
        listed = files.read_json(splits)
        chosen = listed.get(self.split) if isinstance(listed, dict) else None
        if not isinstance(chosen, list):
            raise UserError(f"{splits}: has no list {self.split}; choose another with dataset.split=NAME.")
        by_key = dict(asked.mapped(problems))
        found = []
        for key in map(str, chosen):
            if key not in by_key:
                raise UserError(f"{splits}: question {key} of {self.split} is not in {problems}; give the file that fits.")
            if by_key[key].fields.get("image") is not None:
                found.append(self._found(key, by_key[key]))
        return self._dataset(found, limit, "letter", _by_letter, suffix=LETTER)

    def _found(self, key: str, entry: Entry) -> Found:
        choices, right = entry.fields.get("choices"), entry.whole("answer")
        if not isinstance(choices, list) or not 0 < len(choices) <= len(self.letters) or right >= len(choices):
            raise entry.wrong("choices", f"a list of at most {len(self.letters)} that holds the answer")
        hint = entry.text("hint", "").strip()
        options = [f"{letter}. {choice}" for letter, choice in zip(self.letters, choices, strict=False)]
        question = "\n".join([f"Context: {hint}"] * bool(hint) + [entry.text("question"), *options])
        image = self._at(f"{self.split}/{key}/{entry.text('image')}")
        return Found(Asked(key, image, question, (self.letters[right],), entry.text("subject", "")), entry.where)


@dataclass(frozen=True)
class Pope(Questions):
    """Files of lines, ``{}`` in ``questions`` standing for each of ``sets``, which are the kinds."""

    sets: tuple[str, ...] = ("random", "popular", "adversarial")

    def _sources(self) -> list[Path]:
        return [Path(self.root) / self.questions.replace("{}", one) for one in self.sets]

    def check(self) -> None:
        """Raise `UserError` where a file is not there, or would be read as several sets."""
        sources = self._sources()
        if len(set(sources)) < len(sources):
            raise UserError(
                f"dataset.questions={self.questions}: would be read as each of the sets {', '.join(self.sets)}; put {{}} in "
                "the place of the set's name, or say which one it is: dataset.sets=[random]."
            )
        super().check()

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and line."""
        self.check()
        found = []
        for kind, source in zip(self.sets, self._sources(), strict=True):
            for entry in asked.lines(source):
                label = entry.text("label").strip().lower()
                if label not in ("yes", "no"):
                    raise entry.wrong("label", "yes or no")
                key = f"{kind}-{entry.ident('question_id')}"
                example = Asked(key, self._at(entry.text("image")), entry.text("text"), (label,), kind)
                found.append(Found(example, entry.where))
        return self._dataset(found, limit, "pope", _by_line)


@dataclass(frozen=True)
class OwnQuestions(Questions):
    """A JSONL, JSON (a list), CSV or TSV file of ``image``, ``question``, ``answers`` and, if wanted, ``id`` and ``kind``; in a CSV
    ``answers`` is one answer or a JSON list.

    ``suffix``: put behind each question; ``longest``: tokens of an answer at most.
    """

    scoring: Scoring = "exact"
    suffix: str | None = None
    longest: Count = 16

    def load(self, limit: int | None) -> AskedDataset:
        """The first ``limit`` questions. Raises `UserError` with file and line."""
        self.check()
        source = self._sources()[0]
        entries = table(source) if source.suffix.lower() in (".csv", ".tsv") else asked.objects(source)
        found = [
            Found(
                Asked(
                    entry.ident("id", f"{place:06}"),
                    located(entry, entry.text("image"), self._images, Path(self.root)),
                    entry.text("question"),
                    asked.answers(entry),
                    entry.text("kind", ""),
                ),
                entry.where,
            )
            for place, entry in enumerate(entries)
        ]
        data = self._dataset(found, limit, self.scoring, _by("id", "answer"), self.longest, self.suffix or "")
        named = {(entry.text("image"), one.example.image): one.where for entry, one in zip(entries, found, strict=True)}
        data.notes += elsewhere(((where, *pair) for pair, where in named.items()), self._images, Path(self.root))
        return data


def _texts(entry: Entry, name: str) -> list[str]:
    """A list of texts."""
    value = entry.fields.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise entry.wrong(name, "a list of texts")
    return value


def _by(key: str, said: str, kind: type = object) -> Submit:
    """A list of objects, an id and an answer each."""

    def submit(told: Told) -> str:
        ids = [one.key if kind is str else asked.with_number(one.key) for one, _ in told]
        return json.dumps([{key: ident, said: answer} for ident, (_, answer) in zip(ids, told, strict=True)], indent=0)

    return submit


def _by_letter(told: Told) -> str:
    """ScienceQA's own: the index of the option by id; -1 where none was chosen."""
    places = {one.key: ScienceQa.letters.find(answer[0]) if re.match(r"[A-E](\.|$)", answer) else -1 for one, answer in told}
    return json.dumps({"results": places}, indent=0)


def _by_line(told: Told) -> str:
    """POPE's own: a line for each question; ``category`` tells its three files apart."""
    lines = [{"question": one.question, "answer": answer, "category": one.kind} for one, answer in told]
    return "".join(json.dumps(line) + "\n" for line in lines)
