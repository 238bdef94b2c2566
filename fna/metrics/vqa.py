"""Scores of answers to questions about images, each as its benchmark's own script has it.

A rule takes the accepted answers, what the model said, and the question's kind; it gives 0 to 1. `tally` turns rules into counts,
`figures` sums of counts into percent.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from fna.metrics.captions import cider
from fna.metrics.vqa_words import cleaned, plain
from fna.values import counted

Array = np.ndarray
Rule = Callable[[Sequence[str], str, str], float]
YES_NO, ANLS = "pope", "anls"
FAR = 0.5  # ANLS: below that an answer counts as wrong
AGREED = 3  # people who say the same make an answer of VQAv2 wholly right
FORMULAS = "HME100k"  # of OCRBench: case and blanks are told apart in handwritten formulas


def vqav2(answers: Sequence[str], said: str, kind: str = "") -> float:
    """VQAv2's official accuracy: over every nine of the ten people, a third for each who said the same, 1 at most.

    As the official script does, answers are cleaned only where the people do not all agree; else letters have to fit in case too.
    """
    told, own = [plain(answer) for answer in answers], plain(said)
    if len(set(told)) > 1:
        told, own = [cleaned(answer) for answer in told], cleaned(own)
    return _left_out(told, own)


def textvqa(answers: Sequence[str], said: str, kind: str = "") -> float:
    """TextVQA's: the same accuracy on answers that are always cleaned, after a first step of its own."""
    return _left_out([cleaned(_tokens(answer)) for answer in answers], cleaned(_tokens(said)))


def gqa(answers: Sequence[str], said: str, kind: str = "") -> float:
    """GQA's exact match, lower case and without ASCII punctuation; articles and numbers stay as they are."""
    return float(any(_bare(said) == _bare(answer) for answer in answers))


def exact(answers: Sequence[str], said: str, kind: str = "") -> float:
    """Equal in lower case, without blanks around it and a full stop at its end."""
    return float(any(_trimmed(said) == _trimmed(answer) for answer in answers))


def letter(answers: Sequence[str], said: str, kind: str = "") -> float:
    """ScienceQA's: the option's letter, by `chosen`."""
    return float(chosen(said) in answers)


def pope(answers: Sequence[str], said: str, kind: str = "") -> float:
    """POPE's: yes or no, by `says_yes`."""
    return float(says_yes(said) == is_yes(answers))


def anls(answers: Sequence[str], said: str, kind: str = "") -> float:
    """DocVQA's normalised Levenshtein similarity to the nearest answer, 0 below one half (Biten et al., 2019)."""
    own = " ".join(said.lower().split())
    best = max(_similar(" ".join(answer.lower().split()), own) for answer in answers)
    return best if best >= FAR else 0.0


def ocrbench(answers: Sequence[str], said: str, kind: str = "") -> float:
    """OCRBench's: any accepted answer lies within what was said; its total is the sum over 1,000 questions."""
    trim = _without_blanks if kind == FORMULAS else _one_line
    return float(any(trim(answer) in trim(said) for answer in answers))


RULES: dict[str, Rule] = {
    "exact": exact,
    "vqav2": vqav2,
    "textvqa": textvqa,
    "gqa": gqa,
    YES_NO: pope,
    "letter": letter,
    ANLS: anls,
    "ocrbench": ocrbench,
}


def misfit(scoring: str, answers: Sequence[str]) -> str:
    """Why no answer could be scored by a rule beside these accepted ``answers``; "" where it can be."""
    if scoring == YES_NO and answers[0].strip().lower() not in ("yes", "no"):
        return f"its answer is {answers[0]}, and that rule takes all but no for yes"
    if scoring == "letter" and not set(answers) <= set("ABCDE"):
        return f"its answer is {answers[0]}, and that rule reads a letter from A to E"
    if scoring in ("vqav2", "textvqa") and len(answers) < AGREED + 1:  # one person is left out each time
        return (
            f"it has {counted(len(answers), 'answer')}, and that rule counts how many of ten people gave the same: below "
            f"{AGREED + 1} nothing is wholly right"
        )
    return ""


def clash(kinds: Iterable[str], groups: Iterable[str] = ()) -> str:
    """Why the figures of these ``kinds`` and ``groups`` could not be told apart by their names; "" where they can."""
    called = {_name(taken): f"another figure, {taken}" for taken in ("macro", *groups)}
    for kind in sorted(set(kinds) - {""}):
        if _name(kind) in called:
            return f"kind {kind!r} would be called like {called[_name(kind)]}; rename one"
        called[_name(kind)] = f"kind {kind!r}"
    return ""


CIDER = "cider"  # no rule of one question: it depends on the references of all
SCORINGS = (*RULES, CIDER)
MAINS = {ANLS: "anls", CIDER: "cider"}  # what the figure is called where it is no accuracy


def scores(scoring: str, answers: Sequence[Sequence[str]], said: Sequence[str], kinds: Sequence[str]) -> Array:
    """Of each question, float64 ``[n]``: 0 to 1, of CIDEr 0 to 10. Raises `UserError` where CIDEr's package is missing."""
    if scoring == CIDER:
        return cider(answers, said)
    rule = RULES[scoring]
    return np.array([rule(each, own, kind) for each, own, kind in zip(answers, said, kinds, strict=True)], np.float64)


def chosen(said: str) -> str:
    """The letter A to E that an answer chooses; "" for none.

    As LLaVA reads it: alone, before ". ", or in one "The answer is X."; and with nothing but a full stop, as lmms-eval does.
    """
    said = said.strip()
    if re.fullmatch("[A-E]", said):
        return said
    if re.match(r"[A-E]\. ", said) or re.fullmatch(r"[A-E]\.", said):
        return said[0]
    found = re.findall(r"The answer is ([A-Z])\.", said)
    return str(found[0]) if len(found) == 1 else ""


def says_yes(said: str) -> bool:
    """Whether the first sentence holds none of the words No, not, no, as POPE's and LLaVA's scripts read it."""
    return not {"No", "not", "no"} & set(said.split(".")[0].replace(",", "").split(" "))


def is_yes(answers: Sequence[str]) -> bool:
    """Whether the accepted answer is yes, in whatever case it is written: what people label is no sentence to be parsed."""
    return answers[0].strip().lower() != "no"


def tally(
    scoring: str, answers: Sequence[Sequence[str]], said: Sequence[str], kinds: Sequence[str], groups: Sequence[str] = ()
) -> dict[str, Array]:
    """What each question adds to the sums, float64 ``[n]`` by name; "NAME/KIND" holds the same for one kind only.

    ``kinds`` are the questions' types, "" for none; ``groups`` one more division of them, left out of means over kinds.
    """
    found = scores(scoring, answers, said, kinds)
    counts = {"asked": np.ones(len(found)), MAINS.get(scoring, "vqa_accuracy"): found}
    if scoring == YES_NO:
        yes, true = np.array([says_yes(own) for own in said]), np.array([is_yes(each) for each in answers])
        counts |= {"said_yes": yes.astype(float), "is_yes": true.astype(float), "both_yes": (yes & true).astype(float)}
    whole, marks = dict(counts), [(kind, "/") for kind in sorted(set(kinds) - {""})] + [(one, ":") for one in sorted({*groups})]
    for kind, mark in marks:
        its = np.array([one == kind for one in (kinds if mark == "/" else groups)])
        counts |= {f"{name}{mark}{kind}": np.where(its, values, 0.0) for name, values in whole.items()}
    return counts


def figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """``vqa_accuracy`` (``anls``, ``cider``) in percent, of all, as the mean over kinds and of each kind; of yes and no also
    precision, recall, F1 (the mean over kinds, where there are any) and the model's own share of yes."""
    main = next((name for name in MAINS.values() if name in sums), "vqa_accuracy")
    parts = [name.removeprefix("asked") for name in sums if name.startswith("asked")]
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw may lack a kind
        shares = {part: 100.0 * sums[main + part] / sums["asked" + part] for part in parts}
        kinds = [part for part in parts if part.startswith("/")]
        found = {main: shares[""]}
        if len(kinds) > 1:
            found[f"{main}_macro"] = np.mean([shares[kind] for kind in kinds], axis=0)
        found |= {f"{main}_{_name(part[1:])}": shares[part] for part in parts if part}
        if "said_yes" in sums:
            each = [_yes(sums, kind) for kind in kinds or [""]]
            found |= {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}
    return found


def _yes(sums: Mapping[str, Array], part: str) -> dict[str, Array]:
    """Of one kind; what has no denominator is 0."""
    asked, said, true, both = (np.asarray(sums[name + part]) for name in ("asked", "said_yes", "is_yes", "both_yes"))

    def share(above: Array, below: Array) -> Array:
        return np.where(below > 0, 100.0 * above / np.where(below > 0, below, 1.0), 0.0)

    return {
        "precision": share(both, said),
        "recall": share(both, true),
        "f1": share(2 * both, said + true),
        "yes_ratio": share(said, asked),
    }


def _name(kind: str) -> str:
    return re.sub(r"\W+", "_", kind.lower()).strip("_") or "other"


def _left_out(told: Sequence[str], own: str) -> float:
    same = [answer == own for answer in told]
    return float(np.mean([min(1.0, (sum(same) - one) / AGREED) for one in same]))


def _tokens(text: str) -> str:
    return plain(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def _bare(text: str) -> str:
    return text.lower().translate(str.maketrans("", "", string.punctuation)).strip()


def _trimmed(text: str) -> str:
    return text.strip().lower().removesuffix(".").strip()


def _one_line(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _without_blanks(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _similar(a: str, b: str) -> float:
    return 1.0 - edits(a, b) / max(len(a), len(b), 1)


def edits(a: str, b: str) -> int:
    """Levenshtein's distance: letters put in, taken out or exchanged to make ``b`` of ``a``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
