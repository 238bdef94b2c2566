"""Questions about images, through a small random LLaVA in a folder: answers, policies, resuming, files, refusals in a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fna.data.asked_files import OwnQuestions
from fna.errors import UserError
from fna.judge.ledger import Ledger
from fna.metrics.__main__ import scored
from fna.models.base import Model
from fna.runner.rows import heard
from fna.surgery.variant import FULL, Variant
from fna.tasks import answers
from fna.tasks.answers import certainty, stored
from fna.tasks.base import Run
from fna.tasks.vqa import VisualQuestions
from tests.conftest import Cli
from tests.kv.models import made
from tests.models.test_llava import build, llava_folder  # noqa: F401
from tests.test_run import one_line, results

QUESTIONS = ("what is this ?", "is this red and is that ?", "what ?", "is that red ?", "red ?")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("asked")
    (root / "images").mkdir()
    lines = []
    for number, question in enumerate(QUESTIONS):
        pixels = np.random.default_rng(number).integers(0, 255, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{number}.png")
        lines.append({"image": f"{number}.png", "question": question, "answers": ["red", "that"], "kind": "ab"[number % 2]})
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def model(llava_folder: Path) -> Model:  # noqa: F811
    return build(llava_folder, prompt="short")


def outcome(model: Model, root: Path, folder: Path, batch: int = 8, variant: Variant = FULL, key: str = "full") -> Any:
    task, data = VisualQuestions(longest=5, answers=str(folder)), OwnQuestions(str(root), "questions.jsonl", "images").load(None)
    with variant.on(model.tower):
        return task.evaluate(model, data, Run(batch, variant=key))


def test_answers_do_not_depend_on_the_batch(model: Model, asked: Path, tmp_path: Path) -> None:
    alone, together = (outcome(model, asked, tmp_path / str(batch), batch) for batch in (1, 4))
    assert alone.labels == together.labels
    assert alone.keys == [f"{number:06}" for number in range(len(QUESTIONS))]
    assert len(set(alone.labels)) > 1
    np.testing.assert_allclose(alone.outputs, together.outputs, atol=1e-4)
    np.testing.assert_array_equal(alone.decisions, together.decisions)


def test_a_policy_that_keeps_all_answers_as_full_does(model: Model, asked: Path, tmp_path: Path) -> None:
    full = outcome(model, asked, tmp_path)
    same = outcome(model, asked, tmp_path, variant=Variant("all", kv=made("fna", budget=1.0)), key="all")
    less = outcome(model, asked, tmp_path, variant=Variant("less", kv=made("fna", budget=2)), key="less")
    assert same.labels == full.labels
    np.testing.assert_allclose(same.outputs, full.outputs, atol=1e-4)
    assert not np.allclose(less.outputs, full.outputs, atol=1e-3)
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_a_killed_run_goes_on_where_it_was(model: Model, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome(model, asked, tmp_path / "whole", 2)
    real, times = answers.answer, []

    def killed(*args: Any) -> Any:
        times.append(len(args[1]))
        if len(times) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(answers, "answer", killed)
    with pytest.raises(KeyboardInterrupt):
        outcome(model, asked, tmp_path / "cut", 2)
    (file,) = (tmp_path / "cut").glob("*.jsonl")
    file.write_text(file.read_text() + '{"key": "000004", "sa')  # a line that was being written
    assert len(stored(Ledger(file, "key"))) == 2
    assert outcome(model, asked, tmp_path / "cut", 2).labels == whole.labels
    assert sum(times[2:]) == 3
    assert len(stored(Ledger(file, "key"))) == 5


def test_an_image_that_cannot_be_read_is_left_out_or_with_strict_refused(model: Model, asked: Path, tmp_path: Path) -> None:
    data = OwnQuestions(str(asked), "questions.jsonl", "images").load(3)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    data.examples = [replace(data.examples[0], image=broken), *data.examples[1:]]
    task = VisualQuestions(longest=2, answers=str(tmp_path))
    found = task.evaluate(model, data, Run(2))
    assert found.keys == ["000001", "000002"]
    assert "000000: unreadable image" in found.skipped[0]
    with pytest.raises(UserError, match=r"broken\.png"):
        task.evaluate(model, data, Run(2, strict=True))


def test_a_second_turn_is_the_talk_in_one_prompt(model: Model, asked: Path) -> None:
    """Whatever the batch; under a policy, what is compressed has not seen the question."""
    data = OwnQuestions(str(asked), "questions.jsonl", "images").load(None).examples
    data = [replace(one, image=data[number // 2].image) for number, one in enumerate(data)]
    before, talk = answers.turns_before(data), model.answer
    assert before[data[0].key] == (data[1].question, "red")
    assert before[data[4].key] == answers.ALONE
    pictures = [Image.open(one.image) for one in data]
    found = answers.answer(talk, data, pictures, "", 4, before)
    for one, picture, ours in zip(data, pictures, found, strict=True):
        whole = talk.inputs([[picture]], [[before[one.key], (one.question, None)]])
        assert ours.said == talk.text(answers.generated(talk, whole, 4)[0])[0]
    with Variant("less", kv=made("fna", budget=2)).on(model.tower):
        together = answers.answer(talk, data, pictures, "", 4, before)
        alone = [answers.answer(talk, [one], [picture], "", 4, before)[0] for one, picture in zip(data, pictures, strict=True)]
    assert [one.said for one in together] == [one.said for one in alone]
    np.testing.assert_allclose([one.sure for one in together], [one.sure for one in alone], atol=1e-4)
    assert all(less.kept < full.kept for less, full in zip(together, found, strict=True))
    assert [one.kept for one in together] == [one.kept for one in alone]


def test_how_sure_a_model_is_counts_up_to_the_end() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]]))
    ids = torch.tensor([[0, 2, 0]])
    assert certainty(ids, logits, [2]) == pytest.approx([(0.5 * 0.8) ** 0.5])
    assert certainty(ids, logits, []) == pytest.approx([(0.5 * 0.8 * 0.9) ** (1 / 3)])


def test_what_cannot_be_asked_is_one_line(model: Model, asked: Path, tmp_path: Path) -> None:
    data = OwnQuestions(str(asked), "questions.jsonl", "images").load(1)
    with pytest.raises(UserError, match="answers no questions"):
        VisualQuestions().check(replace(model, answer=None), data)
    data.examples = []
    with pytest.raises(UserError, match="holds no questions"):
        VisualQuestions().check(model, data)
    with pytest.raises(UserError, match=r"task\.smaller"):
        VisualQuestions(smaller=str(tmp_path / "nothing.jsonl")).check_files()


def test_difficult_questions_are_those_of_a_run_on_the_same_questions(model: Model, asked: Path, tmp_path: Path) -> None:
    data = OwnQuestions(str(asked), "questions.jsonl", "images").load(None)
    file = tmp_path / "predictions.jsonl"
    lines = [{"variant": "resize", "key": one.key, "right": 1.0, "question": one.question} for one in data.examples]
    file.write_text("\n".join(map(json.dumps, lines)))
    task = VisualQuestions(smaller=str(file))
    assert set(task._groups(list(data.examples))) == {"simple"}
    file.write_text("\n".join(json.dumps(line | {"question": "what else ?"}) for line in lines))
    with pytest.raises(UserError, match="its question 000000 is another one"):
        task._groups(list(data.examples))


def test_every_token_that_is_timed_is_told_of(model: Model, asked: Path) -> None:
    task, told = VisualQuestions(), []
    given = task.first(model, OwnQuestions(str(asked), "questions.jsonl", "images").load(None), 2)
    with torch.inference_mode():
        written = task.write(model, given, lambda: told.append(1))
    assert written.shape == (2, len(told))


@pytest.mark.slow
def test_a_run_from_the_command_line(cli: Cli, llava_folder: Path, asked: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ["model=llava", f"model.checkpoint={llava_folder}", "model.prompt=short", "dataset=questions", f"dataset.root={asked}"]
    words += ["limit=3", "timing.rounds=3", "timing.batch_size=2", "dataset.longest=4", "kv=fna", "kv.budget=2"]
    env = {"FNA_CACHE": str(tmp_path / "cache")}
    done = cli(*words, 'versus=["kv=none"]', env=env)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    assert [one["kv"] for one in result["contenders"]] == ["fna", "none"]
    assert set(result["metrics"]) == {"vqa_accuracy", "vqa_accuracy_macro", "vqa_accuracy_a", "vqa_accuracy_b", "kv_megabytes"}
    size = result["metrics"]["kv_megabytes"]
    assert size["variant"] < size["full"]
    assert result["contenders"][1]["fidelity"]["output_error"] == 0
    assert result["cost"]["images_per_second"]["variant"] > 0
    for token in ("first_token", "further_token"):
        assert set(result["cost"][token]["seconds"]) == {"full", "exact", "variant"}
    assert "ms first token" in done.stdout
    (file,) = (tmp_path / "outputs" / "runs").rglob("predictions.jsonl")
    again = scored(file)
    assert again["full"]["vqa_accuracy"] == pytest.approx(result["metrics"]["vqa_accuracy"]["full"])
    told = json.loads((file.parent / "submission_0.json").read_text())
    assert [set(one) for one in told] == [{"id", "answer"}] * 3
    done = cli(*words, f"task.smaller={file}", env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_refusals_come_in_one_line(cli: Cli, llava_folder: Path, asked: Path) -> None:  # noqa: F811
    data = ["dataset=questions", f"dataset.root={asked}"]
    assert "language model that sees" in one_line(cli("model=clip_shapes", "task=vqa", *data))
    assert "kv.budget=0" in one_line(cli("model=llava", f"model.checkpoint={llava_folder}", *data, "kv=fna", "kv.budget=0"))
    assert "has no questions" in one_line(cli("model=llava", f"model.checkpoint={llava_folder}", "dataset=shapes", "task=vqa"))


def test_prompts_beyond_the_positions_of_a_model_are_told_of_in_the_row(
    model: Model, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model.answer.net.config.get_text_config(decoder=True)
    for most, told in ((config.max_position_embeddings, []), (40, ["some prompts and answers are longer than the 40 positions"])):
        monkeypatch.setattr(config, "max_position_embeddings", most)
        with heard() as said:
            outcome(model, asked, tmp_path / str(most))
        assert len(said) == len(told)
        assert all(sentence.startswith(start) for sentence, start in zip(said, told, strict=True))
        assert all("LlavaForConditionalGeneration was made for" in sentence for sentence in said)
