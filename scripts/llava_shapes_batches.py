"""Batches of freshly drawn scenes and conversations about them for training llava_shapes: a function of the step alone, so a run
can be resumed. No scene is seen twice, and none that clip_shapes was trained on is left out: the tower is frozen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from clip_shapes_batches import patch_owners
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fna.data.scene_drawing import draw
from fna.data.scene_files import SEEDS
from fna.data.scene_questions import KINDS, Question, candidates
from fna.data.scenes import COLOURS, SHAPES, TEXTURES, Scene, Thing, make_scene

TURNS = 3  # questions of a conversation
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
GROUPS = ((*SHAPES, "no"), COLOURS, TEXTURES, ROWS, COLUMNS)  # words that a patch should be like: one of each; "no" on the ground


@dataclass(frozen=True)
class Stage:
    """`steps` steps of `scenes` scenes at `size` pixels, each with `talks` conversations of TURNS questions.

    `pointing`: how heavy the loss is that makes a word look at what it names, `answering` the one that makes the tokens before
    those of an answer look at what the question's words name.
    """

    size: int
    scenes: int
    talks: int
    rate: float
    steps: int
    pointing: float = 0.3
    answering: float = 0.3


@dataclass(frozen=True)
class Batch:
    """`pixels` `[S, 3, h, w]` in -1 to 1; `likes` `[S, patches, len(GROUPS)]` indices into each group, -1 for none; `ids`,
    `answers` (those of `ids` to be told, else -100) and `mask` `[S * talks, T]`; `kinds` `[S * talks, TURNS]` and `turns`
    `[S * talks, T]`, the turn whose answer a token is of, -1 for none. `owners` `[S, patches]`, thing i as i + 1; `named`
    `[S * talks, T]`, bit i for thing i where a token names it, `asked` likewise at each token before one of an answer."""

    pixels: Tensor
    likes: Tensor
    ids: Tensor
    answers: Tensor
    mask: Tensor
    kinds: Tensor
    turns: Tensor
    owners: Tensor
    named: Tensor
    asked: Tensor


class Words:
    """Questions and answers to token ids, one look-up a text."""

    def __init__(self, reads: PreTrainedTokenizerFast) -> None:
        self.reads = reads
        self.known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.reads(text, add_special_tokens=False).input_ids
        return self.known[text]


def questions(scene: Scene, count: int, random: Random) -> list[Question]:
    """`count` questions: a kind, then an answer of that kind, then a question with it, each drawn evenly."""
    options: dict[str, dict[str, list[Question]]] = {kind: defaultdict(list) for kind in KINDS}
    for question in candidates(scene):
        options[question.kind][question.slot].append(question)
    kinds = [kind for kind in KINDS if options[kind]]
    chosen = []
    for _ in range(count):
        answers = options[random.choice(kinds)]
        chosen.append(random.choice(answers[random.choice(list(answers))]))
    return chosen


def likes(scene: Scene, owners: np.ndarray) -> np.ndarray:
    """Of each patch `[patches]` of owners (thing i as i + 1, 0 for the ground, -1 undecided) the word of each group."""
    table = np.full((len(scene.things) + 2, len(GROUPS)), -1)
    table[0, 0] = len(SHAPES)
    for row, thing in enumerate(scene.things, 1):
        table[row] = (SHAPES.index(thing.shape), COLOURS.index(thing.colour), TEXTURES.index(thing.texture), *thing.cell)
    return table[owners]


def batch(stages: Sequence[Stage], step: int, words: Words) -> Batch:
    """That step's whole batch."""
    first, before = SEEDS["train"].start, step
    for stage in stages:
        if before < stage.steps:
            break
        before -= stage.steps
        first += stage.steps * stage.scenes
    first += before * stage.scenes
    random = Random(step)
    scenes = [make_scene(first + i) for i in range(stage.scenes)]
    drawn = [draw(scene, stage.size) for scene in scenes]
    owners = patch_owners(np.stack([owners for _, owners in drawn]))
    asked = [questions(scene, stage.talks * TURNS, random) for scene in scenes]
    talks = [told[i : i + TURNS] for told in asked for i in range(0, len(told), TURNS)]
    rows = [_told(talk, words) for talk in talks]
    longest = max(len(ids) for ids, _ in rows)
    ids, turns = np.zeros((len(rows), longest), int), np.full((len(rows), longest), -1)
    mask, named, meant = (np.zeros((len(rows), longest), int) for _ in range(3))
    for row, (told, turn) in enumerate(rows):
        ids[row, : len(told)], turns[row, : len(told)], mask[row, : len(told)] = told, turn, 1
        named[row, : len(told)], meant[row, : len(told)] = _named(told, scenes[row // stage.talks], words)
    return Batch(
        torch.from_numpy(np.stack([pixels for pixels, _ in drawn])).permute(0, 3, 1, 2).float() / 127.5 - 1,
        torch.from_numpy(np.stack([likes(scene, owner) for scene, owner in zip(scenes, owners, strict=True)])),
        torch.from_numpy(ids),
        torch.from_numpy(np.where(turns >= 0, ids, -100)),
        torch.from_numpy(mask),
        torch.tensor([[KINDS.index(question.kind) for question in talk] for talk in talks]),
        torch.from_numpy(turns),
        torch.from_numpy(owners),
        torch.from_numpy(named),
        torch.from_numpy(_asked(meant, turns)),
    )


def _told(talk: Sequence[Question], words: Words) -> tuple[list[int], list[int]]:
    """A conversation after its picture: token ids, and of each the number of the turn whose answer it is of, -1 for none."""
    ids: list[int] = []
    turns: list[int] = []
    for turn, question in enumerate(talk):
        asked = words(("USER: " if turn else "") + question.text + " ASSISTANT:")
        told = words(question.answer + " </s>")
        ids += asked + told
        turns += [-1] * len(asked) + [turn] * len(told)
    return ids, turns


def _asked(meant: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """At each token before one of an answer, what is meant by the words of its turn so far, `[rows, T]`."""
    found = np.zeros_like(meant)
    since = np.zeros(len(meant), int)
    for column in range(meant.shape[1] - 1):
        begins = (turns[:, column] < 0) & (turns[:, column - 1] >= 0) if column else np.ones(len(meant), bool)
        since = np.where(begins, 0, since) | meant[:, column]
        found[:, column] = np.where(turns[:, column + 1] >= 0, since, 0)
    return found


def _named(ids: Sequence[int], scene: Scene, words: Words) -> tuple[list[int], list[int]]:
    """Of each token the things that it names, a bit each, and those that are meant by it.

    An adjective names all that are so, a shape those of it that the adjective before it lets through. "red" of "red star" means
    nothing of its own, "red" of "red thing" does.
    """
    told = words.reads.convert_ids_to_tokens(list(ids))
    named, meant = [], []
    for before, word, after in zip(["", *told], told, [*told[1:], ""], strict=False):
        bits = sum(1 << i for i, thing in enumerate(scene.things) if _is(thing, before, word))
        named.append(bits)
        meant.append(bits if word in SHAPES or after not in SHAPES else 0)
    return named, meant


def _is(thing: Thing, before: str, word: str) -> bool:
    """Whether a word names the thing, with the one before it."""
    if word in SHAPES:
        return word == thing.shape and (before not in (*COLOURS, *TEXTURES) or before in (thing.colour, thing.texture))
    return word in (thing.colour, thing.texture)
