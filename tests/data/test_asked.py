"""Questions about images in the files of each benchmark, made up in their format; what is wrong is told with file and entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from fna.data.asked import LETTER, SHORT, Scoring
from fna.data.asked_captions import LONGEST, QUESTION, Flickr30k, Nocaps
from fna.data.asked_files import DocVqa, Gqa, OcrBench, OwnQuestions, Pope, ScienceQa, TextVqa, VqaV2
from fna.errors import UserError
from fna.metrics.vqa import SCORINGS

TEN = ["red"] * 9 + ["pink"]


def put(root: Path, files: dict[str, Any], *images: str) -> str:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / image)
    return str(root)


def vqav2(root: Path, **question: Any) -> VqaV2:
    asked = {"question_id": 262148000, "image_id": 262148, "question": "what colour?", **question}
    note = {"question_id": 262148000, "answer_type": "other", "answers": [{"answer": one} for one in TEN]}
    files = {"q.json": {"questions": [asked]}, "a.json": {"annotations": [note]}}
    return VqaV2(put(root, files, "val2014/COCO_val2014_000000262148.jpg"), "q.json", "val2014", "val2014", annotations="a.json")


def test_vqav2(tmp_path: Path) -> None:
    data = vqav2(tmp_path).load(None)
    (one,) = data.examples
    assert (one.key, one.kind, one.answers) == ("262148000", "other", tuple(TEN))
    assert (data.scoring, data.suffix) == ("vqav2", SHORT)
    assert data.submit is not None
    assert json.loads(data.submit([(one, "red")])) == [{"question_id": 262148000, "answer": "red"}]


def test_textvqa_and_docvqa(tmp_path: Path) -> None:
    text = {"question_id": 3, "image_id": "ab", "question": "what is it?", "answers": TEN}
    page = {"questionId": 5, "question": "which year?", "image": "documents/p.png", "answers": ["1999"], "question_types": ["form"]}
    root = put(tmp_path, {"t.json": {"data": [text]}, "d.json": {"data": [page]}}, "i/ab.jpg", "documents/p.png")
    (one,) = TextVqa(root, "t.json", "i").load(None).examples
    assert (one.question, len(one.answers)) == ("What is it?", 10)
    words = {"data": [{"image_id": "ab", "ocr_tokens": ["STOP", "now"]}]}
    put(tmp_path, {"o.json": words, "other.json": {"data": [{"image_id": "b", "ocr_tokens": []}]}})
    (one,) = TextVqa(root, "t.json", "i", ocr="o.json").load(None).examples
    assert one.question == "What is it?\nReference OCR token: STOP, now"
    with pytest.raises(UserError, match=r"image ab has no words in .*other\.json"):
        TextVqa(root, "t.json", "i", ocr="other.json").load(None)
    data = DocVqa(root, "d.json", ".").load(None)
    assert (data.examples[0].kind, data.scoring, data.longest) == ("form", "anls", 32)


def test_gqa_keeps_its_ids_as_text(tmp_path: Path) -> None:
    entry = {"imageId": "n1", "question": "is it?", "answer": "yes", "types": {"structural": "verify"}}
    data = Gqa(put(tmp_path, {"g.json": {"007": entry}}, "i/n1.jpg"), "g.json", "i").load(None)
    (one,) = data.examples
    assert (one.key, one.kind) == ("007", "verify")
    assert data.submit is not None
    assert json.loads(data.submit([(one, "no")])) == [{"questionId": "007", "prediction": "no"}]


def test_pope_has_three_files(tmp_path: Path) -> None:
    line = json.dumps({"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "no"})
    files = dict.fromkeys(("pope_random.json", "pope_popular.json", "pope_adversarial.json"), line)
    data = Pope(put(tmp_path, files, "i/a.jpg"), "pope_{}.json", "i").load(None)
    assert [one.key for one in data.examples] == ["random-1", "popular-1", "adversarial-1"]
    assert data.submit is not None
    assert json.loads(data.submit([(data.examples[1], "No")]))["category"] == "popular"


def test_one_file_is_not_read_as_several_sets(tmp_path: Path) -> None:
    line = json.dumps({"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "no"})
    root = put(tmp_path, {"pope_random.json": line}, "i/a.jpg")
    with pytest.raises(UserError, match=r"would be read as each of the sets random, popular, adversarial; put \{\}"):
        Pope(root, "pope_random.json", "i").load(None)
    assert [one.kind for one in Pope(root, "pope_random.json", "i", sets=("random",)).load(None).examples] == ["random"]


def test_ids_that_are_no_plain_numbers_stay_apart_in_a_submission(tmp_path: Path) -> None:
    lines = [json.dumps({"id": key, "image": "a.jpg", "question": "?", "answers": "x"}) for key in ("007", "7", "a")]
    data = OwnQuestions(put(tmp_path, {"q.jsonl": "\n".join(lines)}, "i/a.jpg"), "q.jsonl", "i").load(None)
    assert data.submit is not None
    assert [one["id"] for one in json.loads(data.submit([(one, "x") for one in data.examples]))] == ["007", 7, "a"]


def test_scienceqa_takes_questions_with_an_image(tmp_path: Path) -> None:
    entry = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "Look.", "image": "image.png", "subject": "natural"}
    files = {"p.json": {"1": entry, "2": {**entry, "image": None}}, "s.json": {"test": ["1", "2"]}}
    data = ScienceQa(put(tmp_path, files, "test/1/image.png"), "p.json", ".", "test", splits="s.json").load(None)
    (one,) = data.examples
    assert one.question == "Context: Look.\nWhich?\nA. x\nB. y"
    assert (one.answers, data.suffix) == (("B",), LETTER)
    assert data.submit is not None
    assert json.loads(data.submit([(one, "B.")])) == {"results": {"1": 1}}
    assert json.loads(data.submit([(one, "Both")])) == {"results": {"1": -1}}


def test_ocrbench_tells_formulas_by_name(tmp_path: Path) -> None:
    entry = {"dataset_name": "HME100k", "type": "maths", "question": "?", "answers": "x", "image_path": "a.jpg", "id": 4}
    other = {**entry, "dataset_name": "IIIT5K", "id": 5, "answers": ["x", 7]}
    data = OcrBench(put(tmp_path, {"o.json": [entry, other]}, "a.jpg"), "o.json", ".").load(None)
    assert [(one.kind, one.answers) for one in data.examples] == [("HME100k", ("x",)), ("maths", ("x", "7"))]


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
def test_questions_of_ones_own(name: str, tmp_path: Path) -> None:
    table = 'image,question,answers,kind\na.png,what?,"[""red"",""pink""]",colour\na.png,how many?,2,\n'
    rows = [{"image": "a.png", "question": "what?", "answers": ["red", "pink"], "kind": "colour"}]
    rows += [{"image": "a.png", "question": "how many?", "answers": 2}]
    root = put(tmp_path, {"q.csv": table, "q.jsonl": "\n".join(map(json.dumps, rows))}, "i/a.png")
    data = OwnQuestions(root, name, "i", scoring="anls", suffix=" !").load(None)
    assert [one.answers for one in data.examples] == [("red", "pink"), ("2",)]
    assert (data.examples[0].kind, data.scoring, data.suffix) == ("colour", "anls", " !")


def test_a_line_of_json_ends_where_the_line_does(tmp_path: Path) -> None:
    """Texts from the web hold U+2028 and U+0085, which JSON may leave as they are and Python takes for ends of lines."""
    asked = ["what\u2028is", "this\u0085\u000b?"]
    rows = [json.dumps({"image": "a.png", "question": text, "answers": "x"}, ensure_ascii=False) for text in asked]
    data = OwnQuestions(put(tmp_path, {"q.jsonl": "\r\n".join(rows)}, "i/a.png"), "q.jsonl", "i").load(None)
    assert [one.question for one in data.examples] == asked


def test_every_rule_can_be_named() -> None:
    assert list(get_args(Scoring)) == list(SCORINGS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "?", "answers": "x"}, "line 2: image is missing"),
        ({"image": "a.png", "answers": "x"}, "line 2: question is missing"),
        ({"image": "a.png", "question": "?"}, "line 2: answers is missing"),
        ({"image": "a.png", "question": "?", "answers": []}, "line 2: answers is"),
        ({"image": "a.png", "question": "?", "answers": [None]}, "line 2: answers is"),
        ({"image": "a.png", "question": " ", "answers": "x"}, "line 2: the question is empty"),
        ({"image": "b.png", "question": "?", "answers": "x"}, r"line 2: its image .*b\.png is not there"),
        ({"image": "a.png", "question": "?", "answers": "x", "id": "000000"}, r"line 2: question 000000 stands at .*line 1 too"),
        ([], "line 2: .* no entry"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(line: Any, said: str, tmp_path: Path) -> None:
    good = {"image": "a.png", "question": "what?", "answers": ["red"]}
    root = put(tmp_path, {"q.jsonl": f"{json.dumps(good)}\n{json.dumps(line)}"}, "i/a.png")
    with pytest.raises(UserError, match=said):
        OwnQuestions(root, "q.jsonl", "i").load(None)


def test_official_files_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"questions\[0\]: question 7 has no entry"):
        vqav2(tmp_path, question_id=7).load(None)
    with pytest.raises(UserError, match=r"questions\[0\]: its image"):
        vqav2(tmp_path, image_id=8).load(None)
    put(tmp_path, {"t.json": {"data": [{"question_id": 3, "image_id": "ab", "question": "?", "answers": ["x"]}]}}, "i/ab.jpg")
    with pytest.raises(UserError, match=r"data\[0\]: answers are 1"):
        TextVqa(str(tmp_path), "t.json", "i").load(None)
    with pytest.raises(UserError, match="is no list"):
        DocVqa(str(tmp_path), "q.json", "i").load(None)
    with pytest.raises(UserError, match=r"no such file"):
        Gqa(str(tmp_path), "nothing.json", "i").check()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        # an unquoted comma moves what is behind it by a column: the answer would be a part of the question
        ("q.csv", "image,question,answers\na.png,What, then?,red\n", "line 2: has more cells than columns; put text with commas"),
        ("q.jsonl", '{"image": "a.png", "question": "<image>\\nwhat?", "answers": "x"}', "line 1: the question holds <image>"),
        ("q.jsonl", '{"image": "a.png", "question": "what?", "answers": NaN}', "line 1: answers is nan"),
        ("q.jsonl", '{"image": "a.png", "question": "what?", "answers": "x\\ud800"}', r"line 1: answers is 'x\\ud800'"),
    ],
)
def test_what_would_be_another_question_or_no_answer_is_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        OwnQuestions(put(tmp_path, {name: content}, "i/a.png"), name, "i").load(None)


def test_empty_cells_at_the_end_and_other_ends_of_lines_within_text_are_read(tmp_path: Path) -> None:
    table, text = "image,question,answers\na.png,what?,red,,\n", '{"image": "a.png", "question": "a\u2028b", "answers": "x"}\n'
    root = put(tmp_path, {"q.csv": table, "q.jsonl": text}, "i/a.png")
    assert OwnQuestions(root, "q.csv", "i").load(None).examples[0].answers == ("red",)
    assert OwnQuestions(root, "q.jsonl", "i").load(None).examples[0].question == "a\u2028b"


def test_ones_own_questions_may_be_a_list_and_answers_have_to_say_something(tmp_path: Path) -> None:
    asked = [{"image": "a.png", "question": "what?", "answers": ["red", ""]}]
    root = put(tmp_path, {"q.json": asked, "bare.json": [{**asked[0], "answers": [" ", ""]}]}, "i/a.png")
    assert OwnQuestions(root, "q.json", "i").load(None).examples[0].answers == ("red", "")
    with pytest.raises(UserError, match=r"bare\.json\[0\]: answers are empty; give what is accepted"):
        OwnQuestions(root, "bare.json", "i").load(None)


def test_a_column_that_stands_there_twice_is_refused_for_one_of_both_would_be_lost(tmp_path: Path) -> None:
    root = put(tmp_path, {"q.csv": "image,question,answers,answers,,\na.png,what?,red,blue,,\n"}, "i/a.png")
    with pytest.raises(UserError, match=r"q\.csv: has the column 'answers' twice"):
        OwnQuestions(root, "q.csv", "i").load(None)


def nocaps(root: Path) -> Nocaps:
    images = [{"id": 7, "file_name": "a.jpg", "domain": "near-domain"}, {"id": 9, "file_name": "b.jpg", "domain": "in-domain"}]
    notes = [{"id": number, "image_id": number % 2 * 2 + 7, "caption": f" caption {number} "} for number in range(4)]
    return Nocaps(put(root, {"n.json": {"images": images, "annotations": notes}}, "i/a.jpg", "i/b.jpg"), "n.json", "i")


def test_captions_are_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    data = nocaps(tmp_path / "n").load(None)
    first, second = data.examples
    assert (first.key, first.kind, first.answers, first.question) == ("7", "near-domain", ("caption 0", "caption 2"), QUESTION)
    assert (second.kind, data.scoring, data.suffix, data.longest) == ("in-domain", "cider", "", LONGEST)
    assert data.submit is not None
    assert json.loads(data.submit([(second, "a dog")])) == [{"image_id": 9, "caption": "a dog"}]
    sentences = [{"raw": "One dog."}, {"raw": "A dog."}]
    split = {"images": [{"filename": f"{name}.jpg", "split": name, "sentences": sentences} for name in ("train", "test")]}
    words = "test.jpg#0\tOne dog .\n\ntest.jpg#1\tA\u0085dog .\n"
    root = put(tmp_path / "f", {"k.json": split, "r.token": words}, "i/test.jpg")
    for file, told in (("k.json", ("One dog.", "A dog.")), ("r.token", ("One dog .", "A\u0085dog ."))):
        data = Flickr30k(root, file, "i", split="test").load(None)
        (one,) = data.examples
        assert (one.key, one.answers) == ("test.jpg", told)
        assert data.split == ("test" if file == "k.json" else "all"), "the tokens file holds all splits as one"
    assert data.notes == ["r.token knows no splits: its images are taken as they come, of all of them"]


def test_captions_that_cannot_be_read_or_scored_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pycocoevalcap"):
        nocaps(tmp_path / "n").check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    root = put(tmp_path / "f", {"r.token": "test.jpg One dog .\n"}, "i/test.jpg")
    with pytest.raises(UserError, match=r"r\.token, line 1: is not IMAGE#NUMBER"):
        Flickr30k(root, "r.token", "i").load(None)
