"""Scores of answers about images, worked out by hand from each benchmark's rule."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fna.errors import UserError
from fna.metrics.__main__ import scored
from fna.metrics.vqa import (
    anls,
    chosen,
    clash,
    edits,
    exact,
    figures,
    gqa,
    letter,
    misfit,
    ocrbench,
    says_yes,
    tally,
    textvqa,
    vqav2,
)
from fna.metrics.vqa_words import CONTRACTIONS, cleaned, unpunctuated


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_vqa_accuracy_leaves_out_one_person_at_a_time(matches: int, score: float) -> None:
    answers = ["red"] * matches + [f"other {number}" for number in range(10 - matches)]
    assert vqav2(answers, "red") == pytest.approx(score)


def test_answers_are_cleaned_only_where_people_differ() -> None:
    """Of ten that agree the raw words count, capitals too, as in the official script; TextVQA's always cleans."""
    agreed, split = ["Two dogs"] * 10, ["Two dogs"] * 9 + ["cats"]
    assert vqav2(agreed, "two dogs") == 0
    assert vqav2(agreed, " Two dogs\n") == 1
    assert vqav2(split, "the 2 dogs.") == 1
    assert textvqa(agreed, "the 2 dogs.") == 1


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("The dog, a cat", "dog cat"),
        ("none", "0"),
        ("Ten men", "10 men"),
        ("isnt it", "isn't it"),
        ("couldnt've", "couldn't've"),
        ("red/blue", "red blue"),  # no blank beside it: the mark becomes one
        ("red / blue", "red blue"),
        ("1,000", "1000"),
        ("3.", "3"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("8:30", "8:30"),
        ("a-b c- d", "ab c d"),  # one of them stands at a blank, so all go
        ("let's", "let's"),
    ],
)
def test_cleaning(raw: str, clean: str) -> None:
    assert cleaned(raw) == clean


def test_the_table_of_contractions_is_whole() -> None:
    assert len(CONTRACTIONS) == 120
    assert CONTRACTIONS["dont"] == "don't"
    assert CONTRACTIONS["hed've"] == CONTRACTIONS["he'dve"] == "he'd've"
    assert CONTRACTIONS["somebody'd"] == "somebodyd"
    assert unpunctuated("." * 40) == "." * 8


def test_textvqa_takes_commas_and_questions_marks_out_and_parts_the_genitive() -> None:
    answers = ["joe's pub"] * 4 + ["x"] * 6
    assert textvqa(answers, "Joe 's, Pub?") == 1


def test_exact_matches() -> None:
    assert gqa(["t-shirt"], "T shirt") == 0
    assert gqa(["t-shirt"], "Tshirt.") == 1
    assert gqa(["a cup"], "cup") == 0
    assert exact(["Red"], " red. ") == 1
    assert exact(["red", "crimson"], "crimson") == 1
    assert exact(["red"], "dark red") == 0


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("B", "B"),
        ("B. the cat", "B"),
        ("B.", "B"),
        ("The answer is C.", "C"),
        ("The answer is C. The answer is D. ", ""),
        ("cat", ""),
    ],
)
def test_the_letter_that_is_chosen(said: str, found: str) -> None:
    assert chosen(said) == found
    assert letter([found or "A"], said) == float(bool(found))


def test_yes_and_no_as_pope_reads_them() -> None:
    assert says_yes("Yes, there is")
    assert says_yes("nothing to see")
    assert not says_yes("No, there is none")
    assert not says_yes("There is not")
    assert says_yes("Yes. No doubt")  # the first sentence counts


def test_anls_is_nothing_below_one_half() -> None:
    assert edits("kitten", "sitting") == 3
    assert anls(["kitten"], "sitting") == pytest.approx(1 - 3 / 7)
    assert anls(["ab"], "ac") == 0.5
    assert anls(["abc"], "axx") == 0
    assert anls(["other", "A  B"], "a b") == 1
    assert anls([""], "") == 1


def test_ocrbench_looks_for_an_answer_within() -> None:
    assert ocrbench(["Open"], "the sign says OPEN") == 1
    assert ocrbench(["closed"], "open") == 0
    assert ocrbench([r"\frac a b"], "x = \\frac ab", "HME100k") == 1
    assert ocrbench(["A"], "a", "HME100k") == 0


def test_pope_counts_by_hand() -> None:
    """random: yes right, yes wrong, no right; popular: no wrong, with no yes at all, whose precision is 0 and no error."""
    answers = [["yes"], ["no"], ["no"], ["yes"]]
    counts = tally("pope", answers, ["Yes", "Yes", "No", "No"], ["random", "random", "random", "popular"])
    found = figures({name: each.sum() for name, each in counts.items()})
    assert found["vqa_accuracy"] == 50
    assert found["vqa_accuracy_random"] == pytest.approx(200 / 3)
    assert found["vqa_accuracy_popular"] == 0
    assert found["vqa_accuracy_macro"] == pytest.approx(100 / 3)
    assert found["precision"] == pytest.approx((50 + 0) / 2)
    assert found["recall"] == pytest.approx((100 + 0) / 2)
    assert found["f1"] == pytest.approx((200 / 3 + 0) / 2)
    assert found["yes_ratio"] == pytest.approx((200 / 3 + 0) / 2)


def test_sums_keep_leading_axes_and_groups_stay_out_of_the_mean_over_kinds() -> None:
    counts = tally("exact", [["a"], ["b"], ["c"]], ["a", "b", "x"], ["p", "q", "q"], ["simple", "difficult", "difficult"])
    sums = {name: np.stack([each.sum(), each[:2].sum()]) for name, each in counts.items()}
    found = figures(sums)
    np.testing.assert_allclose(found["vqa_accuracy"], [200 / 3, 100])
    np.testing.assert_allclose(found["vqa_accuracy_macro"], [75, 100])
    np.testing.assert_allclose(found["vqa_accuracy_difficult"], [50, 100])
    assert "anls" in figures({name: each.sum() for name, each in tally("anls", [["a"]], ["a"], [""]).items()})


def test_stored_answers_are_scored_again_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    line = {"variant": "full", "key": "1", "answers": ["Red"], "said": "red", "kind": "", "scoring": "exact"}
    file.write_text(json.dumps(line) + "\n" + json.dumps({**line, "key": "2", "said": "blue"}))
    assert scored(file) == {"full": {"vqa_accuracy": 50.0}}
    assert scored(file, "anls") == {"full": {"anls": 50.0}}
    told = "import sys, fna.metrics.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", told], check=True)
    for text, said in (("{}", "line 1: variant"), ("x", "line 1: not JSON"), ("", "no predictions")):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            scored(file)


@pytest.mark.parametrize(
    ("scoring", "answers", "fits"),
    [("pope", ("Yes",), True), ("pope", ("red",), False), ("letter", ("B",), True), ("letter", ("red",), False),
     ("vqav2", ("red",) * 10, True), ("vqav2", ("red",), False), ("vqav2", ("red",) * 3, False), ("textvqa", ("red",) * 4, True),
     ("exact", ("red",), True), ("anls", ("red",), True)],
)  # fmt: skip
def test_answers_that_a_rule_cannot_score_are_known(scoring: str, answers: tuple[str, ...], fits: bool) -> None:
    """POPE's takes "red" for yes, VQAv2's gives one person's answer 0 whatever is said."""
    assert (misfit(scoring, answers) == "") == fits


def test_a_labelled_no_is_a_no_in_whatever_case() -> None:
    """The parse of POPE's script is for sentences that a model says; NO in a file of labels is no sentence."""
    for no in ("no", "No", "NO", " No "):
        counts = tally("pope", [[no], ["YES"]], ["no", "yes"], ["", ""])
        assert counts["vqa_accuracy"].tolist() == [1, 1]
        assert counts["is_yes"].tolist() == [0, 1]


def test_kinds_whose_figures_would_overwrite_each_other_are_told() -> None:
    assert "'how many'" in clash(["How many?", "how many", ""])
    assert "another figure, macro" in clash(["macro", "micro"])
    assert "another figure, simple" in clash(["simple"], ("simple", "difficult"))
    assert clash(["yes/no", "other", "number", "other", "simple"]) == ""


def test_predictions_that_one_figure_cannot_be_made_of_are_refused(tmp_path: Path) -> None:
    """Two runs in one file, a rule that does not fit the answers, two rules in a file, kinds called alike."""
    file = tmp_path / "predictions.jsonl"
    line = {"variant": "full", "key": "1", "answers": ["red"], "said": "red", "kind": "a", "scoring": "exact"}
    for other, rule, said in (
        ({}, None, "line 2: full answers question 1 in line 1 too"),
        ({"key": "2"}, "pope", "line 1: cannot be scored by pope"),
        ({"key": "2"}, "textvqa", "line 1: cannot be scored by textvqa"),
        ({"key": "2", "scoring": "anls"}, None, "line 2: is scored by anls"),
        ({"key": "2", "kind": "A"}, None, "would be called like"),
    ):
        file.write_text(f"{json.dumps(line)}\n{json.dumps(line | other)}\n")
        with pytest.raises(UserError, match=said):
            scored(file, rule)
    file.write_text(f"{json.dumps(line)}\n{json.dumps(line | {'variant': 'fna'})}\n")
    assert scored(file) == {one: {"vqa_accuracy": 100.0, "vqa_accuracy_a": 100.0} for one in ("full", "fna")}
