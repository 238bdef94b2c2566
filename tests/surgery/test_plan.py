"""Block lists: every form, every mistake in one line, no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fna.errors import UserError
from fna.surgery.plan import parse_layers


@pytest.mark.parametrize(
    ("spec", "depth", "blocks"),
    [
        ("all", 3, (0, 1, 2)),
        ("last-half", 24, tuple(range(12, 24))),
        ("last-half", 3, (1, 2)),
        ("last-half", 1, (0,)),
        ("13-23", 24, tuple(range(13, 24))),
        ("6", 12, (6,)),
        (6, 12, (6,)),
        (-1, 12, (11,)),
        ("-1", 12, (11,)),
        ("-3--1", 12, (9, 10, 11)),
        ("0,3,6-8", 12, (0, 3, 6, 7, 8)),
        (" 0 , 3 ", 12, (0, 3)),
        ([5, -1], 12, (5, 11)),
        ((0, "6-8"), 12, (0, 6, 7, 8)),
        (range(4), 4, (0, 1, 2, 3)),
    ],
)
def test_forms(spec, depth, blocks):
    assert parse_layers(spec, depth) == blocks


@pytest.mark.parametrize(
    "spec", [40, "40", "6-12", -13, "-13", "8-6", "abc", "13:24", "", "1,", [], [True], 1.5, [1.5], None, "1-2-3", "first"]
)
def test_mistakes_are_one_line_that_says_what_to_do(spec):
    with pytest.raises(UserError) as error:
        parse_layers(spec, 12)
    message = str(error.value)
    assert message.startswith("layers=")
    assert "use all, last-half" in message
    assert "\n" not in message


@pytest.mark.parametrize("spec", ["0,0", [0, 0], "0,0-3", [11, -1], "6-8,7-9", ["last-half", 6]])
def test_a_block_that_is_named_twice_is_a_mistyped_other(spec):
    with pytest.raises(UserError, match=r"^layers=.*: names block \d+ twice; name each once\.$"):
        parse_layers(spec, 12)


@pytest.mark.parametrize(("spec", "meant"), [("0--1", "0-11"), ("3--1", "3-11"), ("1--2", "1-10")])
def test_a_range_counts_both_ends_from_one_side(spec, meant):
    """A second dash is more likely a slip than a range up to the last block, and would change every block."""
    with pytest.raises(UserError, match=f'counts one end from the front, the other from the back; write "{meant}"'):
        parse_layers(spec, 12)


def test_out_of_range_names_the_blocks():
    with pytest.raises(UserError, match=r"^layers=40: this model has blocks 0-11; use all"):
        parse_layers(40, 12)


@given(depth=st.integers(1, 40), data=st.data())
def test_text_and_sequence_agree(depth, data):
    blocks = data.draw(st.lists(st.integers(-depth, depth - 1), min_size=1, unique_by=lambda block: block % depth))
    chosen = parse_layers(blocks, depth)
    assert chosen == tuple(sorted({block % depth for block in blocks}))
    assert parse_layers(",".join(map(str, blocks)), depth) == chosen
    assert parse_layers(f"{chosen[0]}-{chosen[-1]}", depth) == tuple(range(chosen[0], chosen[-1] + 1))


def test_needs_no_torch():
    code = "import sys, fna.surgery.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
