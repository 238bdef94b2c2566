"""Questions about scenes, balanced so that an answerer that sees only the words scores near chance."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from fna.data.scene_captions import brief, relation
from fna.data.scenes import COLOURS, SHAPES, SIZES, Scene, Thing

KINDS = ("count", "colour", "shape", "place", "comparison", "yes/no")
MOST_COUNTED = 3  # more of one colour is too rare to be balanced
CHANCE = {"count": 1 / 4, "colour": 1 / 8, "shape": 1 / 8, "place": 1 / 9, "comparison": 1 / 2, "yes/no": 1 / 2}


@dataclass(frozen=True)
class Question:
    """A question and its one answer. `slot` is the answer as a blind answerer could learn it: "first" or "second" in a
    comparison, else the answer itself."""

    kind: str
    text: str
    answer: str
    slot: str


def candidates(scene: Scene) -> Iterator[Question]:
    """Every question that a scene answers without doubt."""
    things = scene.things
    colours = Counter(thing.colour for thing in things)
    for colour in COLOURS:
        if colours[colour] <= MOST_COUNTED:
            number = str(colours[colour])
            yield Question("count", f"how many {colour} shapes are there?", number, number)
    for thing in things:
        if _alone(things, thing, "shape"):
            yield Question("colour", f"what colour is the {thing.shape}?", thing.colour, thing.colour)
            yield Question("place", f"where is the {thing.shape}?", thing.place, thing.place)
        if _alone(things, thing, "colour"):
            yield Question("shape", f"what shape is the {thing.colour} thing?", thing.shape, thing.shape)
        if _alone(things, thing, "texture"):
            yield Question("shape", f"what shape is the {thing.texture} thing?", thing.shape, thing.shape)
    for a in things:
        for b in things:
            if SIZES.index(a.size) > SIZES.index(b.size):
                for first, second, slot in ((a, b, "first"), (b, a, "second")):
                    text = f"which is larger, the {brief(first)} or the {brief(second)}?"
                    yield Question("comparison", text, brief(a), slot)
            if a is not b:
                yield _told(a, b, True)
                yield _told(a, b, False)
    there = {(thing.colour, thing.shape) for thing in things}
    for colour in colours:
        for shape in SHAPES:
            yes = "yes" if (colour, shape) in there else "no"
            yield Question("yes/no", f"is there a {colour} {shape}?", yes, yes)


def ask(scenes: Sequence[Scene], seed: int = 0) -> list[list[Question]]:
    """One question of each kind for every scene (fewer where a scene allows none).

    Of what a scene allows, the question is taken whose wording has had this answer least often so far, compared with the
    wording's other answers; ties by the kind's answers, then by chance.
    """
    random = Random(seed)
    worded: Counter[tuple[str, str]] = Counter()
    answered: Counter[tuple[str, str]] = Counter()
    wordings: Counter[str] = Counter()
    chosen: list[list[Question]] = []
    for scene in scenes:
        by_kind: dict[str, list[Question]] = {kind: [] for kind in KINDS}
        for question in candidates(scene):
            by_kind[question.kind].append(question)
        picked: list[Question] = []
        for kind, options in by_kind.items():
            if options:
                expected = {q: wordings[q.text] * CHANCE[kind] for q in options}
                ranked = {q: (worded[q.text, q.slot] - expected[q], answered[kind, q.slot], random.random()) for q in options}
                best = min(options, key=lambda q: ranked[q])
                worded[best.text, best.slot] += 1
                wordings[best.text] += 1
                answered[kind, best.slot] += 1
                picked.append(best)
        chosen.append(picked)
    return chosen


def _alone(things: Sequence[Thing], thing: Thing, field: str) -> bool:
    return sum(getattr(other, field) == getattr(thing, field) for other in things) == 1


def _told(a: Thing, b: Thing, true: bool) -> Question:
    """Is a where it is (or opposite to where it is) as seen from b?"""
    opposite = {"to the left of": "to the right of", "to the right of": "to the left of", "above": "below", "below": "above"}
    where = relation(a, b)
    answer = "yes" if true else "no"
    return Question("yes/no", f"is the {brief(a)} {where if true else opposite[where]} the {brief(b)}?", answer, answer)
