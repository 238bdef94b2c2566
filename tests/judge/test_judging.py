"""A judge behind an endpoint that misbehaves: what is tried again, what is told, what is kept, what it comes to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fna.errors import UserError
from fna.judge import tally
from fna.judge.endpoint import Calls
from fna.judge.judging import Judge, Matter, Verdict
from fna.judge.ledger import Ledger
from fna.judge.wording import messages, scores
from tests.judge.server import Local, prefers, said, serving, wrong

MATTERS = [Matter(f"{n}", "a cat", f"what is {n}?", f"REF {n}", f"told {n}") for n in range(3)]
KEY = "sk-very-secret-0123456789"
QUICK = Calls(timeout=0.3, retries=2, wait=0.01)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def judge(local: Local, folder: Path, **options: Any) -> Judge:
    return Judge(**{"base_url": local.url, "model": "m", "cache": str(folder), "calls": QUICK, **options})


def test_both_orders_are_asked_and_the_scores_go_back_to_their_answers(tmp_path: Path) -> None:
    """A judge that gives 8 to whatever comes first and 4 to the other: 6 and 6 over both orders, 8 and 4 by one alone."""
    with serving(lambda number, body: said("8 4")) as local:
        both = judge(local, tmp_path).judge(MATTERS[:1])[0]
        one = judge(local, tmp_path, swap=False).judge(MATTERS[:1])[0]
    assert both.scores == [(8, 4), (4, 8)]
    assert (both.reference, both.answer) == (6, 6)
    assert (one.reference, one.answer) == (8, 4)
    assert len(local.seen) == 2  # the one order was there already


def test_what_is_sent_and_what_is_not(tmp_path: Path) -> None:
    with serving(prefers(8, 6)) as local:
        judge(local, tmp_path, samples=2).judge(MATTERS[:1])
    headers, body = local.seen[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert {name: body[name] for name in body if name != "messages"} == {"model": "m", "max_tokens": 1024, "temperature": 0.2}
    assert body["messages"] == messages("a cat", "what is 0?", "REF 0", "told 0")
    assert len(local.seen) == 4
    assert all(KEY not in file.read_text() for file in tmp_path.iterdir())


@pytest.mark.parametrize("bad", [wrong(429, "slow down", Retry_After="0"), wrong(500), (200, "<html>busy</html>", {}), None])
def test_what_may_pass_is_tried_again(bad: Any, tmp_path: Path) -> None:
    with serving(lambda number, body: bad if number == 0 else said("7 5")) as local:
        found = judge(local, tmp_path, swap=False).judge(MATTERS[:1])[0]
    assert found.scores == [(7, 5)]
    assert len(local.seen) == 2


def test_the_server_says_how_long_to_wait(tmp_path: Path) -> None:
    with serving(lambda number, body: wrong(429, Retry_After="0.3") if number == 0 else said("7 5")) as local:
        began = time.perf_counter()
        judge(local, tmp_path, swap=False).judge(MATTERS[:1])
    assert time.perf_counter() - began >= 0.3


def test_answers_without_scores_are_asked_for_again_then_counted(tmp_path: Path) -> None:
    """The tokens of all of them are."""

    def behave(number: int, body: dict[str, Any]) -> Any:
        return said("I would say 8 and 5") if "what is 1?" in body["messages"][1]["content"] else said("8 4")

    with serving(behave) as local:
        found = judge(local, tmp_path, swap=False).judge(MATTERS)
        again = judge(local, tmp_path, swap=False).judge(MATTERS)
    assert [len(one.scores) for one in found] == [1, 0, 1]
    assert [one.calls for one in found] == [1, 3, 1]
    assert found[1].failed == ["question 1: its first line does not hold two scores (it ended by stop)"]
    assert (found[1].tokens_in, found[1].tokens_out) == (300, 30)
    assert again == found
    assert len(local.seen) == 5


def test_a_judge_that_never_answers_is_one_line_and_stops_at_once(tmp_path: Path) -> None:
    with serving(lambda number, body: None) as local, pytest.raises(UserError, match=r"6 of 6 .*no answer within 0\.3 s") as told:
        judge(local, tmp_path, calls=replace(QUICK, retries=1)).judge(MATTERS)
    assert len(local.seen) == 2
    assert "\n" not in str(told.value)


def test_what_was_judged_before_it_went_away_is_kept(tmp_path: Path) -> None:
    with serving(lambda number, body: said("8 4") if number < 3 else wrong(503, "gone")) as local:
        one = judge(local, tmp_path, calls=replace(QUICK, retries=0))
        with pytest.raises(UserError, match=r"3 of 6 judgements could not be had .*HTTP 503: gone .*run it again"):
            one.judge(MATTERS)
        assert len(one.file.read_text().splitlines()) == 3
        assert one.plan(MATTERS).kept == 3
        local.behave = lambda number, body: said("8 4")
        before = len(local.seen)
        assert [found.scores for found in one.judge(MATTERS)] == [[(8, 4), (4, 8)]] * 3
    assert len(local.seen) - before == 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line_without_the_key(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda number, body: wrong(status, f"Incorrect API key: {KEY}")) as local:
        with pytest.raises(UserError, match=r"refuses the key .*\[key\].* look at the key in OPENAI_API_KEY") as told:
            judge(local, tmp_path).judge(MATTERS)
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(UserError, match="put a key into the environment as OPENAI_API_KEY"):
            judge(local, tmp_path).judge(MATTERS)
    assert KEY not in str(told.value)
    assert len(local.seen) == 2
    assert "Authorization" not in local.seen[1][0]


def test_a_judge_that_says_the_key_does_not_get_it_into_a_file(tmp_path: Path) -> None:
    with serving(lambda number, body: said(f"8 4\n{KEY}")) as local:
        one = judge(local, tmp_path)
        one.judge(MATTERS[:1])
    assert "[key]" in one.file.read_text()
    assert KEY not in one.file.read_text()


def test_a_call_that_is_refused_is_the_endpoints_fault_at_first_and_the_questions_later(tmp_path: Path) -> None:
    with serving(lambda number, body: wrong(400, "no such model")) as local:
        with pytest.raises(UserError, match="HTTP 400: no such model"):
            judge(local, tmp_path).judge(MATTERS)
        assert len(local.seen) == 1
        local.behave = lambda number, body: wrong(400, "filtered") if "what is 1?" in str(body) else said("8 4")
        found = judge(local, tmp_path, swap=False).judge(MATTERS)
    assert found[1].failed == ["question 1: HTTP 400: filtered"]
    assert [len(one.scores) for one in found] == [1, 0, 1]


def test_an_address_elsewhere_is_not_followed(tmp_path: Path) -> None:
    with (
        serving(prefers(8, 4)) as other,
        serving(lambda n, body: (307, "", {"Location": f"{other.url}/chat/completions"})) as local,
    ):
        with pytest.raises(UserError, match="HTTP 307"):
            judge(local, tmp_path).judge(MATTERS)
        assert other.seen == []


def test_a_dry_run_is_counted_without_a_call(tmp_path: Path) -> None:
    with serving(prefers(8, 4)) as local:
        one = judge(local, tmp_path, samples=2, calls=replace(QUICK, price_in=1.0, price_out=10.0))
        one.judge(MATTERS[:1])
        asked = len(local.seen)
        plan = one.plan(MATTERS)
        assert len(local.seen) == asked == 4
    assert (plan.calls, plan.kept) == (12, 4)
    assert plan.tokens_out == 8 * 1024
    assert f"8 calls to be made (4 of 12 are kept), about {plan.tokens_in:,} tokens in" in plan.sentence(one.calls)
    assert f"at most {(plan.tokens_in + 10 * plan.tokens_out) / 1e6:.2f}" in plan.sentence(one.calls)


def test_equal_answers_are_judged_once_whatever_is_under_way_together(tmp_path: Path) -> None:
    twins = [*MATTERS, *(replace(one, key=f"{one.key} again") for one in MATTERS)]
    with serving(prefers(8, 4)) as local:
        found = judge(local, tmp_path, calls=replace(QUICK, at_once=4)).judge(twins)
    assert len(local.seen) == 6
    assert [one.scores for one in found] == [[(8, 4), (8, 4)]] * 6


KILLED = """
import sys
from pathlib import Path
from tests.judge.test_judging import MATTERS, QUICK
from fna.judge.judging import Judge
Judge(base_url=sys.argv[1], model="m", cache=sys.argv[2], calls=QUICK).judge(MATTERS)
"""


def test_a_kill_in_the_middle_loses_the_call_under_way_and_no_other(tmp_path: Path) -> None:
    """Killed by the server while it holds back the answer to the fourth call."""
    process: list[subprocess.Popen[bytes]] = []

    def behave(number: int, body: dict[str, Any]) -> Any:
        if number == 3:
            process[0].kill()
            process[0].wait()
        return said("8 4")

    with serving(behave) as local:
        process.append(subprocess.Popen([sys.executable, "-c", KILLED, local.url, str(tmp_path)]))
        process[0].wait(60)
        one = judge(local, tmp_path)
        assert one.plan(MATTERS).kept == 3
        assert [found.scores for found in one.judge(MATTERS)] == [[(8, 4), (4, 8)]] * 3
    assert len(local.seen) == 7


def test_a_line_that_was_cut_is_asked_for_again(tmp_path: Path) -> None:
    with serving(prefers(8, 4)) as local:
        one = judge(local, tmp_path)
        one.judge(MATTERS)
        whole = one.file.read_bytes()
        one.file.write_bytes(whole[:-20])
        assert one.plan(MATTERS).kept == 5
        one.judge(MATTERS)
    assert len(local.seen) == 7
    assert len(Ledger(one.file, "id").lines) == 6
    assert json.loads(one.file.read_text().splitlines()[-1])["scores"] == [4, 8]


def test_a_line_that_changed_in_any_byte_is_none(tmp_path: Path) -> None:
    """A score with one digit more would be a figure that nobody gave; a field of another name would end every later run."""
    file = tmp_path / "kept.jsonl"
    Ledger(file, "id").add({"id": "a", "scores": [8.0, 4.5], "text": "8 4.5\nso"})
    whole = file.read_bytes()
    for place in range(len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        lines = Ledger(file, "id").lines
        assert {key: line["scores"] for key, line in lines.items()} in ({}, {"a": [8.0, 4.5]}), place
        assert all(line["text"] == "8 4.5\nso" for line in lines.values()), place
    file.write_bytes(b'{"id": "a", "scores": [8, 4], "text": "8 4"}\n[1]\n"x"\n')  # an earlier fna's, and what is none
    assert Ledger(file, "id").lines == {"a": {"id": "a", "scores": [8, 4], "text": "8 4"}}


def test_wrong_settings_are_refused_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, told in (
        ({"base_url": "http://x/v1"}, r"judge\.model is null"),
        ({"model": "m"}, r"judge\.base_url is null"),
        ({"dry_run": True}, r"judge\.base_url is null"),
        ({"base_url": "x/v1", "model": "m"}, "is no address"),
        ({"base_url": "http://[x", "model": "m"}, "is no address"),
        ({"base_url": "http://x:99999/v1", "model": "m"}, "is no address"),
        ({"base_url": "http://me:secret@x/v1", "model": "m"}, "give the address alone"),
    ):
        with pytest.raises(UserError, match=told) as raised:
            Judge(**options).check()  # type: ignore[arg-type]
        assert "secret" not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(UserError, match="holds blanks or what is no ASCII") as raised:
        Judge(base_url="http://x/v1", model="m").check()
    assert "sk-one" not in str(raised.value)
    Judge().check()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8 9\nwhy", (8, 9)), ("8, 9", (8, 9)), ("\n 7.5 10 \n", (7.5, 10)), ("", None), ("8", None), ("8 9 7", None),
        ("Assistant 1: 8, 9", None), ("0 11", None), ("nan 5", None), ("why\n8 9", None),
    ],
)  # fmt: skip
def test_scores_are_two_numbers_in_the_first_line(text: str, found: Any) -> None:
    assert scores(text) == found


def test_the_relative_score_is_a_ratio_of_means_by_category_with_an_interval() -> None:
    """By hand: conv 4/8 and 10/10, so 14/18; detail 6/8; all 20/26. The question without scores is in no mean."""
    given = [("conv", 8, 4), ("conv", 10, 10), ("detail", 8, 6), ("detail", None, None)]
    verdicts = [Verdict([(a, b)], [], 100, 10, 1) if a else Verdict([], ["lost"], 300, 30, 3) for _, a, b in given]
    held = tally.counts([one for one, _, _ in given], verdicts)
    found = tally.relative({name: values.sum(0) for name, values in held.items()})
    assert found["relative_conv"] == pytest.approx(100 * 14 / 18)
    assert found["relative_detail"] == pytest.approx(75)
    assert found["relative"] == pytest.approx(100 * 20 / 26)
    assert found["judged"] == 75
    rows = {row["category"]: row for row in tally.table(held)}
    assert rows["conv"]["ci"] == pytest.approx([50, 100])  # either of both questions twice
    assert rows["detail"]["ci"] == pytest.approx([75, 75])
    assert (rows["detail"]["scored"], rows["detail"]["reference"], rows["detail"]["answer"]) == (1, 80, 60)
    assert tally.spent(held) == {"judged": 3, "failed": 1, "calls": 6, "tokens_in": 600, "tokens_out": 60}
    assert np.isfinite(rows["all"]["ci"]).all()
    with pytest.raises(UserError, match=r"none of 1 judgements of detail .*lost"):
        tally.counts(["conv", "detail"], [verdicts[0], verdicts[3]])
