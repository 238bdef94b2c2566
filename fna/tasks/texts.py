"""Classes as texts: what a CLIP compares images with, computed once for a model, its classes and a set of templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fna.data.base import Dataset
from fna.metrics.words import folded, has_word
from fna.models.base import Model
from fna.models.open_clip_text import openai_templates
from fna.tasks.cache import cached_rows, digest_of
from fna.values import Limit, Says

Sentence = Callable[[str], str]

SIMPLE = ("a photo of a {}.",)
# what MaskCLIP adds to the 80 templates of the CLIP paper
SCENE = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
SHOWN = 60  # letters of a text in a note
CLASSES_AT_ONCE = 16  # texts of so many classes are encoded before they are kept


def _is_sentence(text: str) -> bool:
    before, braces, after = text.partition("{}")
    return bool(braces) and not set("{}") & set(before + after)


Template = Annotated[str, Limit("", _is_sentence), Says("a text with {} in it, once, and no other brace")]


def sentence(template: str, knob: str = "task.templates", what: str = "class name") -> Sentence:
    """A function from a name to a sentence. Raises `ValueError` unless ``template`` has one {} and no other brace."""
    if not isinstance(template, str) or not _is_sentence(template):
        raise ValueError(f"{knob}={template}: put {{}} where the {what} goes, once, and no other brace.")
    before, _, after = template.partition("{}")
    return lambda name: f"{before}{name}{after}"


def sentences(templates: str | Sequence[str]) -> list[Sentence]:
    """Functions from a class name to a sentence: "simple", "openai" (80), "maskclip" (85) or sentences with {} for the name."""
    if templates in ("openai", "maskclip"):
        return [*openai_templates(), *(sentence(text) for text in (SCENE if templates == "maskclip" else ()))]
    chosen = SIMPLE if templates == "simple" else templates
    if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not chosen:
        raise ValueError(
            f"task.templates={templates}: give simple, openai, maskclip or a list of sentences with {{}} for the class name."
        )
    return [sentence(text) for text in chosen]


def short_names(names: Sequence[str]) -> list[str]:
    """What each class is called in a sentence: the first of several synonyms ("goldfish, Carassius auratus"), spaces for "_".

    Cut only where what is left stays unique among the classes and is a word: "crane, bird" beside "Crane, machine" and "0, zero"
    stay whole.
    """
    whole = [name.replace("_", " ").strip() for name in names]
    cut = [name.split(",")[0].strip() for name in whole]
    times = Counter(map(folded, cut))
    return [short if has_word(short) and times[folded(short)] == 1 else name for short, name in zip(cut, whole, strict=True)]


def shared_names(names: Sequence[str]) -> list[str]:
    """Names that two or more classes are called by in a sentence, as the first of them has it."""
    called: dict[str, list[str]] = {}
    for name in short_names(names):
        called.setdefault(folded(name), []).append(name)
    return [alike[0] for alike in called.values() if len(alike) > 1]


def note_cut(model: Model, dataset: Dataset, texts: Sequence[str]) -> None:
    """Note with ``dataset`` how many of the ``texts`` are longer than what the model reads of them, and how many begin alike."""
    cut = model.cut_texts(texts) if model.cut_texts is not None else {}
    if cut:
        first = _beginning(next(iter(cut)))
        said = f"{len(cut)} of {len(set(texts))} texts are longer than {model.name} reads: their ends are left out (first: {first})"
        times = Counter(cut.values())
        alike = [text for text, read in cut.items() if times[read] > 1]
        if alike:
            said += (
                f"; {len(alike)} of them are read the same as another (first: {_beginning(alike[0])}), which no image "
                "can tell apart, and count as different texts"
            )
        dataset.notes += [said] * (said not in dataset.notes)


def _beginning(text: str) -> str:
    return f"{text[:SHOWN]} ..." if len(text) > SHOWN else text


def note_spelt(model: Model, dataset: Dataset, texts: Sequence[str], remedy: str) -> None:
    """Note with ``dataset`` how many of the ``texts`` are in a script that the model's text tower has no words of."""
    spelt = model.spelt_texts(texts) if model.spelt_texts is not None else []
    if spelt:
        said = (
            f"{len(spelt)} of {len(set(texts))} texts are in a script that the tokenizer of {model.name} only takes apart into "
            f"letters or bytes (first: {spelt[0][:SHOWN]}): it was hardly trained to read them, and rates may be chance; {remedy}"
        )
        dataset.notes += [said] * (said not in dataset.notes)


def note_cut_names(model: Model, dataset: Dataset, templates: str | Sequence[str]) -> None:
    """The same of the classes' names in each of the ``templates``."""
    note_cut(model, dataset, [put(name) for name in short_names(dataset.classes) for put in sentences(templates)])


def class_texts(model: Model, names: Sequence[str], templates: str | Sequence[str], cache: str | Path | None = None) -> Tensor:
    """Unit vectors ``[C, E]``, float32: of each class the mean over templates of unit vectors, normalised again.

    Classes are called by their `short_names`; those of one name get the same vector. With ``cache`` they are kept in that folder.
    """
    called = short_names(names)
    classes = list(dict.fromkeys(called))
    row = {name: number for number, name in enumerate(classes)}
    place = [row[name] for name in called]
    made = sentences(templates)

    def pieces(done: int) -> list[np.ndarray]:
        return [
            _encoded(model, classes[start : start + CLASSES_AT_ONCE], made) for start in range(done, len(classes), CLASSES_AT_ONCE)
        ]

    if cache is None:
        return torch.from_numpy(np.concatenate(pieces(0))[place]).to(model.device)
    key = digest_of({"model": model.identity, "texts": [text(name) for name in classes for text in made]})
    width = _encoded(model, classes[:1], made[:1]).shape[1]
    rows = cached_rows(Path(cache) / "texts" / f"{key}.npy", (len(classes), width), lambda done: iter(pieces(done)), "float32")
    return torch.from_numpy(np.array(rows)[place]).to(model.device)


def _encoded(model: Model, classes: Sequence[str], made: Sequence[Sentence]) -> np.ndarray:
    assert model.encode_text is not None
    with torch.inference_mode():
        flat = model.encode_text([text(name) for name in classes for text in made])
        means = normalize(flat.float(), dim=-1).reshape(len(classes), len(made), -1).mean(dim=1)
        return normalize(means, dim=-1).cpu().numpy()
