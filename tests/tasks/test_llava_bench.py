"""LLaVA-Bench from its files to judged answers: a small random LLaVA, a judge on this machine, refusals in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna.data.llava_bench import LlavaBench
from fna.errors import UserError
from fna.judge.__main__ import main
from fna.judge.endpoint import Calls
from fna.judge.judging import Judge
from fna.metrics.words import word_f1
from fna.models.llava import VisionLanguageModel
from fna.surgery.variant import FULL, Variant
from fna.tasks.base import Run
from fna.tasks.llava_bench import OpenAnswers
from tests.conftest import Cli
from tests.judge.server import prefers, serving, wrong
from tests.kv.models import made
from tests.models.test_llava import llava_folder  # noqa: F401
from tests.test_run import one_line, results

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "llava_bench"
CATEGORIES = ("conv", "detail")


def write(file: Path, *entries: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(one) + "\n" for one in entries))


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Two questions in COCO's format, each about an image of its own."""
    root = tmp_path / "bench"
    (root / "images").mkdir(parents=True)
    questions, answers, contexts = [], [], []
    for number, category in enumerate(CATEGORIES):
        name = f"00000{number}.jpg"
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (30, 40, 3), np.uint8)).save(root / "images" / name)
        questions.append({"question_id": number, "image": name, "text": "what is this ?", "category": category})
        answers.append({"question_id": number, "text": f"REF {number}", "category": category})
        box = {"category": "cat", "bbox": [0.1, 0.2, 0.35, 0.4]}
        contexts.append({"id": name, "image": name, "captions": ["a cat .", "one cat"], "instances": [box]})
    write(root / "questions.jsonl", *questions)
    write(root / "answers_gpt4.jsonl", *answers)
    write(root / "context.jsonl", *contexts)
    return root


@pytest.fixture(scope="module")
def model(llava_folder: Path) -> Any:  # noqa: F811
    return VisionLanguageModel(str(llava_folder), prompt="short").build(image_size=None, device="cpu", dtype="float32", seed=0)


def test_coco_files_are_read(bench: Path) -> None:
    data = LlavaBench(str(bench)).load(None)
    assert [one.key for one in data.examples] == ["0", "1"]
    assert data.examples[0].context == "a cat .\none cat\n\nBoxes, as x1, y1, x2, y2 from 0 to 1:\ncat: 0.1, 0.2, 0.35, 0.4"
    assert (data.examples[1].reference, data.examples[1].category) == ("REF 1", "detail")
    (bench / "images" / "000001.jpg").rename(bench / "images" / "COCO_val2014_000001.jpg")
    assert LlavaBench(str(bench)).load(None).digest == data.digest


def test_files_of_the_version_in_the_wild_are_read(bench: Path) -> None:
    write(bench / "context.jsonl", *({"id": n, "image": f"00000{n}.jpg", "caption": f"cat {n}"} for n in range(2)))
    assert [one.context for one in LlavaBench(str(bench)).load(None).examples] == ["cat 0", "cat 1"]
    assert [one.context for one in LlavaBench(str(bench), context=None).load(None).examples] == ["", ""]


def test_missing_images_are_told_and_left_out_or_grey(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNA_CACHE", str(bench / "cache"))
    (bench / "images" / "000001.jpg").unlink()
    left = LlavaBench(str(bench)).load(None)
    assert [one.key for one in left.examples] == ["0"]
    assert left.notes == ["of 1 question the image is not there (1 image, 000001.jpg first): left out"]
    assert [one.key for one in LlavaBench(str(bench)).load(1).examples] == ["0"]
    assert LlavaBench(str(bench), missing="grey").load(1).notes == []
    grey = LlavaBench(str(bench), missing="grey").load(None)
    assert "grey picture" in grey.notes[0]
    assert Image.open(grey.examples[1].image).getpixel((9, 9)) == (128, 128, 128)
    (bench / "images" / "000000.jpg").unlink()
    with pytest.raises(UserError, match=r"of 2 questions the image is not there .*dataset\.missing=grey"):
        LlavaBench(str(bench)).load(None)


@pytest.mark.parametrize(
    ("file", "entry", "told"),
    [
        ("questions.jsonl", {"question_id": 0, "text": "?", "category": "conv"}, r"questions\.jsonl, line 1: image is missing"),
        ("questions.jsonl", {"question_id": 7, "image": "000000.jpg", "text": "?", "category": "c"}, "7 has no reference answer"),
        ("answers_gpt4.jsonl", {"question_id": 0}, r"answers_gpt4\.jsonl, line 1: text is missing"),
        ("context.jsonl", {"image": "000000.jpg"}, r"line 1: captions is null|captions is None; a list of texts"),
        ("context.jsonl", {"image": "other.jpg", "caption": "x"}, r"nothing is said of 000000\.jpg"),
    ],
)
def test_a_file_with_missing_fields_is_one_line(file: str, entry: dict[str, Any], told: str, bench: Path) -> None:
    write(bench / file, entry)
    with pytest.raises(UserError, match=told):
        LlavaBench(str(bench)).load(None)


def test_the_real_files() -> None:
    if not REAL.is_dir():
        pytest.skip("shared/data/llava_bench is not here")
    with pytest.raises(UserError, match=r"of 90 questions the image is not there \(30 images"):
        LlavaBench(str(REAL)).load(None)
    data = LlavaBench(str(REAL), missing="grey").load(None)
    assert len(data.examples) == 90
    assert sorted(data.classes) == ["complex", "conv", "detail"]
    assert all(one.context and one.reference for one in data.examples)


def test_words_in_common_by_hand() -> None:
    """Two of three and two of four words: 2 * 2 / 7."""
    assert word_f1("A red cat.", "the red, red CAT") == pytest.approx(4 / 7)
    assert word_f1("", "") == 1
    assert word_f1("", "a") == 0


def task(folder: Path, url: str | None = None, **options: Any) -> OpenAnswers:
    calls = Calls(timeout=0.5, retries=0, wait=0.01, price_in=1.0, price_out=2.0)
    judge = Judge(base_url=url, model="m" if url else None, cache=str(folder / "judge"), calls=calls, **options)
    return OpenAnswers(tokens=5, cache=str(folder / "answers"), judge=judge)


def outcome(one: OpenAnswers, model: Any, bench: Path, variant: Variant = FULL, change: str = "full") -> Any:
    with variant.on(model.tower):
        return one.evaluate(model, LlavaBench(str(bench)).load(None), Run(2, change=change))


def test_answers_are_kept_and_judged_again_without_the_model(
    model: Any, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = outcome(task(tmp_path), model, bench)
    assert set(first.counts) == {"f1", "questions", "kept"}
    (file,) = (tmp_path / "answers").iterdir()
    assert [json.loads(line)["question_id"] for line in file.read_text().splitlines()] == ["0", "1"]
    monkeypatch.setattr(model.answer.net, "generate", None)  # from here on nobody writes
    with serving(prefers(8, 6)) as local:
        again = outcome(task(tmp_path, local.url), model, bench)
        assert again.labels == first.labels
        assert len(local.seen) == 4
        words = [str(file), "--data", str(bench), "--base-url", local.url, "--model", "m", "--cache", str(tmp_path / "judge")]
        assert main([*words, "--price-in", "1", "--price-out", "2", "--out", str(tmp_path / "scores.json")]) == 0
        assert len(local.seen) == 4
        assert main([*words, "--samples", "3", "--dry-run"]) == 0
        assert "8 calls to be made (4 of 12 are kept)" in capsys.readouterr().err
        assert main([*words, "--samples", "0"]) == 1
        assert "--samples=0: give a whole number from 1 to 100" in capsys.readouterr().err
    found = task(tmp_path).metrics({name: values.sum(0) for name, values in again.counts.items()})
    assert {name: found[name] for name in found if name not in ("word_f1", "kv_megabytes")} == {
        "relative": 75, "relative_conv": 75, "relative_detail": 75, "judged": 100
    }  # fmt: skip
    (stored,) = json.loads((tmp_path / "scores.json").read_text())["answers"]
    assert stored["rows"][0] | {"ci": None} == {
        "category": "all", "scored": 2, "reference": 80, "answer": 60, "relative": 75, "ci": None
    }  # fmt: skip
    assert stored["cost"] == pytest.approx((400 * 1 + 40 * 2) / 1e6)


def test_a_policy_that_keeps_all_answers_as_full_and_batches_do_not_matter(model: Any, bench: Path, tmp_path: Path) -> None:
    full = outcome(task(tmp_path), model, bench)
    same = outcome(task(tmp_path), model, bench, Variant("all", kv=made("fna", budget=1.0)), change="all")
    assert same.labels == full.labels
    assert len(list((tmp_path / "answers").iterdir())) == 2
    with FULL.on(model.tower):
        alone = task(tmp_path / "alone").evaluate(model, LlavaBench(str(bench)).load(None), Run(1))
    assert alone.labels == full.labels


def test_a_model_that_answers_nothing_is_refused(model: Any, bench: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="answers no questions about images"):
        task(tmp_path).check(replace(model, answer=None), LlavaBench(str(bench)).load(None))


@pytest.mark.slow
def test_a_run_from_the_command_line_stopped_and_gone_on_with(
    cli: Cli,
    llava_folder: Path,  # noqa: F811
    bench: Path,
    tmp_path: Path,
) -> None:
    """The judge goes away after three of four calls; the next run asks for the one that is missing, and for the variant's."""
    with serving(lambda number, body: prefers(8, 6)(number, body) if number < 3 else wrong(503)) as local:
        words = ["model=llava", f"model.checkpoint={llava_folder}", "model.prompt=short", "dataset=llava_bench"]
        words += [f"dataset.root={bench}", "task.tokens=5", "kv=fna", "kv.budget=0.25", "timing.rounds=6", "bootstrap=200"]
        words += [f"judge.base_url={local.url}", "judge.model=m", "judge.retries=0", "judge.timeout=5"]
        assert "1 of 4 judgements could not be had" in one_line(cli(*words))
        local.behave = prefers(8, 6)
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        assert len(local.seen) in (5, 9)  # the variant may have answered alike
    whole = [result for result in results(tmp_path / "outputs" / "runs") if result["status"] == "ok"]
    metrics = whole[0]["metrics"]
    assert next(iter(metrics)) == "relative"
    assert metrics["relative"]["full"] == metrics["relative_conv"]["variant"] == 75
    assert whole[0]["kv"] == "fna"
    (scores,) = (tmp_path / "outputs" / "runs").rglob("judge.json")
    assert json.loads(scores.read_text())["variants"][0]["label"] == "full"
    assert "75.0" in scores.with_name("report.html").read_text()
