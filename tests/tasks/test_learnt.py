"""Nearest neighbours against a loop, a probe on separable points, and both through the task on a model of mean colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fna.data.bank import LabelledDataset
from fna.data.base import Captioned, Dataset, Labelled
from fna.errors import UserError
from fna.models.base import Model
from fna.tasks.base import Prepared, Run
from fna.tasks.learnt import Neighbours, Probe, unit


def test_votes_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    bank, queries, labels = unit(generator.normal(size=(30, 5))), unit(generator.normal(size=(7, 5))), generator.integers(0, 4, 30)
    scores = Neighbours(k=6, temperature=0.07).fit(bank, labels, 4, 0)(queries)
    for query, row in zip(queries, scores, strict=True):
        near = sorted(range(30), key=lambda place: -float(bank[place] @ query))[:6]
        weights = np.exp([bank[place] @ query / 0.07 for place in near])
        expected = np.zeros(4)
        for place, weight in zip(near, weights / weights.sum(), strict=True):
            expected[labels[place]] += weight
        assert row == pytest.approx(expected, abs=1e-5)


def test_a_bank_smaller_than_k_votes_as_a_whole() -> None:
    scores = Neighbours(k=20).fit(unit(np.eye(3)), np.array([0, 1, 1]), 2, 0)(unit(np.ones((1, 3))))
    assert scores[0] == pytest.approx([1 / 3, 2 / 3])


def test_a_probe_separates_what_can_be_separated_and_is_seeded() -> None:
    generator = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 40)
    features = unit(np.eye(8)[labels] + generator.normal(size=(120, 8)) * 0.2)
    probe = Probe(epochs=30, batch=32, rates=(1e-6, 0.1))
    scores = probe.fit(features, labels, 3, 0)(features)
    assert (scores.argmax(1) == labels).mean() > 0.95
    assert np.array_equal(scores, probe.fit(features, labels, 3, 0)(features))


def test_a_low_temperature_lets_the_nearest_vote_alone() -> None:
    scores = Neighbours(k=3, temperature=1e-4).fit(unit(np.eye(3)), np.array([0, 1, 1]), 2, 0)(unit(np.array([[3.0, 2.0, 2.0]])))
    assert np.allclose(scores, [[1, 0]])


@pytest.mark.parametrize("task", [Neighbours(k=1), Probe(epochs=20, batch=4, rates=[1.0])], ids=["knn", "probe"])
def test_through_the_task(task: Neighbours | Probe, clip: Model, labelled: Dataset[Labelled], tmp_path: Path) -> None:
    learnt = replace(labelled, examples=[example for example in labelled.examples for _ in range(4)])
    data = LabelledDataset(**{**vars(labelled), "training": lambda: learnt})
    made = replace(task, cache=str(tmp_path), _fitted={})
    made.check(clip, data)
    assert isinstance(made, Prepared)
    made.prepare(clip, data, Run(batch_size=3))
    assert len(list((tmp_path / "embeddings").glob("*.npy"))) == 1
    outcome = made.evaluate(clip, data, Run(batch_size=3))
    assert [note.partition(": ")[2] for note in made.notes(outcome, data)] == [f"learnt from {len(learnt.examples)} images"]
    assert outcome.keys == [example.key for example in data.examples]
    sums = {name: counts.sum(0) for name, counts in outcome.counts.items()}
    assert float(made.metrics(sums)["top1"]) >= 75
    with pytest.raises(UserError, match=r"no images to learn from: .*dataset\.train=SPLIT, or dataset\.bank=4"):
        made.check(clip, labelled)


def test_images_without_classes_are_not_told_to_give_a_split(clip: Model, captioned: Dataset[Captioned]) -> None:
    with pytest.raises(UserError, match=r"captions has no class for each image.*task=fidelity, which needs none"):
        Neighbours().check(clip, captioned)


def test_an_image_to_learn_from_that_cannot_be_read_is_named(clip: Model, labelled: Dataset[Labelled], tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    data = LabelledDataset(**{**vars(labelled), "training": lambda: labelled})
    with pytest.raises(UserError, match=r"s1: unreadable image .*mend or remove it\.$"):
        Neighbours(k=1, cache=str(tmp_path)).prepare(clip, data, Run(batch_size=2))


def test_a_probe_of_very_few_images_is_refused(clip: Model, labelled: Dataset[Labelled], tmp_path: Path) -> None:
    """None could be held out to choose the rate on."""
    few = replace(labelled, examples=labelled.examples[:3])
    data = LabelledDataset(**{**vars(labelled), "training": lambda: few})
    with pytest.raises(UserError, match="3 images to learn from: task=probe needs at least 4"):
        Probe(cache=str(tmp_path)).prepare(clip, data, Run(batch_size=2))


def test_embeddings_of_a_model_that_is_run_otherwise_are_others(clip: Model, labelled: Dataset[Labelled], tmp_path: Path) -> None:
    data = LabelledDataset(**{**vars(labelled), "training": lambda: labelled})
    task = Neighbours(k=1, cache=str(tmp_path))
    keys = {task.prepare(model, data, Run(batch_size=3)) for model in (clip, replace(clip, config={"mean": 0.4}), clip)}
    assert len(keys) == len(list((tmp_path / "embeddings").glob("*.npy"))) == 2


def test_another_seed_is_another_probe_on_the_same_embeddings(clip: Model, labelled: Dataset[Labelled], tmp_path: Path) -> None:
    learnt = replace(labelled, examples=[example for example in labelled.examples for _ in range(4)])
    data = LabelledDataset(**{**vars(labelled), "training": lambda: learnt})
    task = Probe(epochs=2, batch=4, rates=[1.0], cache=str(tmp_path))
    found = []
    for seed in (0, 1, 0):
        found.append((task.prepare(clip, data, Run(3, seed)), task.evaluate(clip, data, Run(3, seed)).outputs))
    assert found[0][0] == found[2][0] != found[1][0]
    assert np.array_equal(found[0][1], found[2][1])
    assert not np.array_equal(found[0][1], found[1][1])
    assert len(list((tmp_path / "embeddings").glob("*.npy"))) == 1
