"""Captions tell scenes apart, swapped ones are false, colours alone do not do it, and questions are balanced."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fna.data.scene_captions import captions, detailed, full_caption, swap, swapped_captions
from fna.data.scene_drawing import RGB, draw
from fna.data.scene_files import SEEDS, scenes_of
from fna.data.scene_questions import CHANCE, KINDS, Question, ask, candidates
from fna.data.scenes import COLOURS, SHAPES, Scene, make_scene

TEST = scenes_of("test", 500)


def test_no_two_full_captions_of_a_split_are_alike() -> None:
    told = [full_caption(scene) for scene in scenes_of("test", 3000)]
    assert len(set(told)) == 3000


def test_splits_have_seeds_of_their_own() -> None:
    assert SEEDS["test"].stop <= SEEDS["val"].start
    assert SEEDS["val"].stop <= SEEDS["train"].start


def test_captions_go_from_terse_to_full() -> None:
    for scene in TEST[:50]:
        terse, coloured, related, rich, full = captions(scene)
        assert len(terse) < len(coloured) < len(rich) < len(full)
        for thing in scene.things:
            assert thing.shape in terse
            assert f"{thing.colour} {thing.shape}" in coloured
            assert detailed(thing) in rich
            assert f"{detailed(thing)} {thing.place}" in full
        assert any(word in related for word in ("left", "right", "above", "below"))


def test_nine_swapped_captions_use_the_same_words_and_are_false() -> None:
    for scene in TEST[:100]:
        truth = full_caption(scene)
        wrong = swapped_captions(scene, 9)
        assert len({*wrong, truth}) == 10
        claims = [f"{detailed(thing)} {thing.place}" for thing in scene.things]
        for caption in wrong:
            assert any(claim not in caption for claim in claims)
            # The same attributes are told, of other things; the place words and the relation may follow.
            for word in (*COLOURS, *SHAPES):
                assert caption.split(", the ")[0].count(word) == truth.split(", the ")[0].count(word)


def test_a_swap_undone_is_the_scene() -> None:
    scene = TEST[0]
    assert swap(swap(scene, 0, 1, ("colour",)), 0, 1, ("colour",)) == scene


def colour_shares(pixels: np.ndarray) -> np.ndarray:
    """`[8]`: share of pixels `[S, S, 3]` near each colour."""
    table = np.array([RGB[colour] for colour in COLOURS], float)
    apart = np.abs(pixels.reshape(-1, 1, 3) - table).sum(-1)
    return np.bincount(apart.argmin(1)[apart.min(1) < 70], minlength=len(COLOURS)) / len(apart)


def told_shares(scene: Scene) -> np.ndarray:
    """`[8]`: what a caption leads one to expect of the same, by the sizes that it tells."""
    area = {"small": 0.026, "medium": 0.06, "large": 0.12}
    return np.array([sum(0.6 * area[t.size] for t in scene.things if t.colour == colour) for colour in COLOURS])


def test_a_colour_histogram_finds_less_than_a_fifth() -> None:
    seen = np.array([colour_shares(draw(scene, 64)[0].astype(float)) for scene in TEST])
    told = np.array([told_shares(scene) for scene in TEST])
    unit = [table / (np.linalg.norm(table, axis=1, keepdims=True) + 1e-9) for table in (np.sqrt(seen), np.sqrt(told))]
    rooted = unit[0] @ unit[1].T
    near = -np.abs(seen[:, None] - told[None]).sum(-1)
    right = np.arange(len(TEST))
    for alike in (rooted, near):
        found = ((alike.argmax(1) == right).mean(), (alike.argmax(0) == right).mean())
        assert 0.005 < max(found) < 0.2, found


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_balanced(kind: str) -> None:
    """Whoever learns each wording's commonest answer on one half scores near chance on the other."""
    asked = [question for questions in ask(TEST) for question in questions if question.kind == kind]
    assert len(asked) > 400
    learnt: dict[str, Counter[str]] = {}
    usual: Counter[str] = Counter()
    for question in asked[::2]:
        learnt.setdefault(question.text, Counter())[question.slot] += 1
        usual[question.slot] += 1
    fallback = usual.most_common(1)[0][0]
    hits = [learnt.get(q.text, Counter({fallback: 1})).most_common(1)[0][0] == q.slot for q in asked[1::2]]
    assert np.mean(hits) < CHANCE[kind] + 0.1


def test_answers_are_true() -> None:
    scene = make_scene(4)
    colours = Counter(thing.colour for thing in scene.things)
    found: list[Question] = list(candidates(scene))
    assert {question.kind for question in found} <= set(KINDS)
    for question in found:
        words = question.text.rstrip("?").split()
        if question.kind == "count":
            assert int(question.answer) == colours[words[2]]
        if question.kind == "colour":
            assert [t.colour for t in scene.things if t.shape == words[-1]] == [question.answer]
        if question.kind == "yes/no" and words[:3] == ["is", "there", "a"]:
            there = any((t.colour, t.shape) == (words[3], words[4]) for t in scene.things)
            assert question.answer == ("yes" if there else "no")
