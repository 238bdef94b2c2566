"""``python -m fna.doctor``, ``fna.report``, ``fna.judge``, ``fna.metrics``, ``fna.models``: words that they cannot use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import fna.doctor
import fna.judge.__main__
import fna.metrics.__main__
import fna.models.__main__
import fna.report.__main__

COMMANDS = {
    "doctor": (fna.doctor.main, ["--agian"], "unrecognized arguments: --agian"),
    "report": (fna.report.__main__.main, [], "the following arguments are required: FOLDER"),
    "judge": (fna.judge.__main__.main, ["a.jsonl"], "the following arguments are required: --data"),
    "metrics": (fna.metrics.__main__.main, ["a.jsonl", "--scoring", "own"], "argument --scoring: invalid choice: 'own'"),
    "models": (fna.models.__main__.main, ["vit"], "unrecognized arguments: vit"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_words_that_a_command_cannot_use_are_one_line_and_exit_status_1(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main: Callable[[list[str]], int]
    main, words, said = COMMANDS[name]
    assert main(words) == 1
    out = capsys.readouterr()
    assert out.out == ""
    (line,) = out.err.splitlines()
    assert line.startswith(f"error: {said}")
    assert line.endswith(f"; python -m fna.{name} --help lists what there is.")
