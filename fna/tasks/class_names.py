"""Whether names of classes are words: a text tower reads whatever stands there, "a photo of a 0." too, and says nothing of it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from fna.data.base import Dataset
from fna.data.layouts import V2
from fna.errors import UserError
from fna.metrics.words import HOLDERS, MADE, SUFFIX, folded, has_word
from fna.models.base import Model
from fna.tasks.texts import note_cut_names, note_spelt, shared_names, short_names

NAMED = 5  # classes named in a note
SHOWN = 3  # of them in a refusal
MOST = 0.75  # share of names without a word from which on they are refused
REST = {"background", "other", "others", "unknown", "unlabeled", "unlabelled", "void", "none", "nothing", "rest", "misc"}
_HOLDER = rf"(?:{'|'.join(sorted(HOLDERS))})"
WORDNET = re.compile(r"n\d{8}")
# a number at either end, with what makes one of it in front: 001.Albatross, class_3 dog, c0_driving, cat 1
FRONT = re.compile(rf"[\W_]*({_HOLDER}[\W_]*|[a-z])?(\d+)(?=[\W_]*[^\W\d_]{{2}})")
BACK = re.compile(r".*[^\W\d_]{2}()[\W_]*?(\d+)[\W_]*")


def check_names(model: Model, dataset: Dataset, templates: str | Sequence[str], give: str, instead: str) -> None:
    """Hold the classes of ``dataset`` against what ``model`` reads of them in ``templates``; what is to be doubted is noted.

    ``give``: how to give names; ``instead``: what needs none. Raises `UserError` where numbers, letters and ids are all the names,
    unless sentences of one's own say what they are ("a photo of the number: {}").
    """
    names = short_names(dataset.classes)
    without = [name for name in names if not has_word(name)]
    called = [name for name in names if folded(name) not in REST]  # background beside 1, 2, 3 makes no words of them
    if without and isinstance(templates, str) and len(without) >= MOST * len(called):
        kind = "WordNet id" if all(map(WORDNET.fullmatch, without)) else "number, letter or id"
        shown = ", ".join(dict.fromkeys(without[:SHOWN]))
        v2 = "; folders 0 to 999 are ImageNet-V2's, which dataset=imagenet_v2 reads" if {*dataset.classes} == V2 else ""
        said = f"{dataset.name} knows its classes by {kind} only ({shown}), of which a text says nothing"
        raise UserError(f"{said}: {give}, or {instead}{v2}.")
    many = len(names)
    note_cut_names(model, dataset, templates)
    if cut := [(short, name) for short, name in zip(names, dataset.classes, strict=True) if "," in name and "," not in short]:
        short, name = cut[0]
        _note(dataset, f"{len(cut)} of {many} classes are asked by what stands before their comma (first: {short!r} of {name!r})")
    note_spelt(model, dataset, names, f"{give} in a language that it reads, or take a model that reads this one")
    if without:
        _note(dataset, f"{len(without)} of {many} class names hold no word (first: {without[0]}), and a text needs one: {give}")
    elif len({re.sub(r"\d+", "0", folded(name)) for name in names}) == 1 < len({*map(folded, names)}):
        _note(dataset, f"class names differ in numbers only ({', '.join(names[:SHOWN])}), which few text towers tell apart: {give}")
    elif beside := with_more_than_words(names):
        _note(
            dataset,
            f"{len(beside)} of {many} class names hold a number, an id or a file's suffix beside their words (first: {beside[0]}), "
            f"which is read as a part of them: {give}",
        )
    if marked := [name for name in names if html.unescape(name) != name]:
        _note(
            dataset,
            f"{len(marked)} of {many} class names are written as in HTML (first: {marked[0]!r}), which open_clip's tokenizer reads "
            f"as {html.unescape(marked[0])!r} and transformers' letter by letter: {give}",
        )
    if alike := shared_names(dataset.classes):
        _note(dataset, f"classes of one name cannot be told apart, the first is answered: {', '.join(alike[:NAMED])}")


def with_more_than_words(names: Sequence[str]) -> list[str]:
    """Names that hold a number, an id or a file's suffix beside their words.

    A number is taken for part of a name (Boeing 707) unless most names have one at the same end and it counts them: in front all
    are different, behind they run from 0 or 1.
    """
    low = [folded(name) for name in names]
    odd = {place for place, name in enumerate(low) if MADE.search(name.replace("_", " ")) or SUFFIX.search(name)}
    for pattern, counted_from in ((FRONT, None), (BACK, (0, 1))):
        found = {place: match for place, name in enumerate(low) if (match := pattern.match(name))}
        if 2 * len(found) > len(names) and _count(list(found.values()), counted_from):
            odd |= found.keys()
    return [names[place] for place in sorted(odd)]


def _count(found: Sequence[re.Match[str]], starts: tuple[int, ...] | None) -> bool:
    """Whether numbers with one word in front of them, or none, count: no two alike, without a gap from one of ``starts`` on."""
    numbers = sorted(int(match[2]) for match in found)
    apart = len({*numbers}) == len(numbers) and len({match[1] for match in found}) == 1
    return apart and (starts is None or any(numbers == [*range(start, start + len(numbers))] for start in starts))


def _note(dataset: Dataset, said: str) -> None:
    if said not in dataset.notes:
        dataset.notes.append(said)
