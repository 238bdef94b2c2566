"""CIDEr-D of captions: published arithmetic on small captions, and what stands in where Java or the package is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fna.errors import UserError
from fna.metrics.captions import cider, plain_words
from fna.metrics.vqa import figures, tally

REFERENCES = [
    ["a dog runs on the grass", "a brown dog runs"],
    ["a red bus parked on the street", "a bus on a street"],
    ["two cats sleep on a bed", "cats sleeping"],
]
SAID = ["a dog runs on grass", "a red bus on the street", "two cats sleep"]
SCORES = [4.50762, 3.79027, 2.77724]  # worked out by hand from the formula, ten times the mean over orders of n-grams


@pytest.mark.filterwarnings("ignore:no Java")
def test_it_is_the_formula_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr("shutil.which", lambda name: None)
    np.testing.assert_allclose(cider(REFERENCES, SAID), SCORES, atol=1e-5)
    assert cider(REFERENCES[:1], SAID[:1]).tolist() == [0.0]  # of one image every n-gram is in all of them
    sums = tally("cider", REFERENCES, SAID, ["in", "near", "near"])
    told = figures({name: each.sum() for name, each in sums.items()})
    assert told["cider"] == pytest.approx(100 * np.mean(SCORES), abs=1e-3)
    assert told["cider_near"] == pytest.approx(100 * np.mean(SCORES[1:]), abs=1e-3)


def test_words_without_java() -> None:
    assert plain_words("A man's dog, isn't it? Two well-known dogs.") == "a man 's dog is n't it two well-known dogs"


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(UserError, match="pip install pycocoevalcap"):
        cider(REFERENCES, SAID)
