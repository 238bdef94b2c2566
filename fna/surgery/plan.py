"""Which blocks to change: "all", "last-half", "13-23", "0,3,6-8", 6 or a sequence of ints, as a sorted tuple of block numbers; and
plans, which give ranges a method each.

Imports neither torch nor any model library, so that a typing mistake is found before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from fna.errors import UserError
from fna.spelling import nearest

WORDS = ("all", "last-half")
Layers = str | int | Sequence[int | str]

Method = TypeVar("Method")

_RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")


def parse_layers(spec: Layers, depth: int, knob: str = "layers", local: Collection[int] = ()) -> tuple[int, ...]:
    """The chosen blocks of a model with ``depth`` blocks, ascending; one that is named twice is a mistyped other.

    ``spec``: "all"; "last-half" (of an odd depth the larger half); one number; a range with both ends included ("13-23"); a comma
    list of these; a sequence of them. Negative numbers count from the end, in a range both or neither. ``local``: blocks that see
    a window alone; "all" and "last-half" leave them out, a number does not. Raises `UserError`, which names ``knob``, for anything
    else.
    """
    if isinstance(spec, Mapping):
        instead = 'write a plan as attn={"0-5": "exact", "6-11": "fna"}, or give layers as numbers'
        alone = "auto measures what each block gets, on the command line alone; " if "auto" in spec else ""
        raise UserError(f"{knob}={dict(spec)}: {alone}{instead}.")
    spec = spec.tolist() if hasattr(spec, "tolist") else spec  # numpy's and torch's arrays and numbers
    if isinstance(spec, str):
        parts: Sequence[int | str] = [part.strip() for part in spec.split(",")]
    elif isinstance(spec, Sequence):
        parts = spec
    else:
        parts = [spec]
    asked = f"{knob}={_shown(spec)}"
    chosen = sorted(block for part in parts for block in _blocks(part, asked, depth) if part not in WORDS or block not in local)
    if not chosen and local and spec in WORDS:
        raise UserError(f"{asked}: these blocks all attend in windows, which are left exact unless named: {_choices(depth)}")
    if not chosen:
        raise UserError(f"{asked} names no block: {_choices(depth)}")
    twice = next((block for block, after in pairwise(chosen) if block == after), None)
    if twice is not None:
        raise UserError(f"{asked}: names block {twice} twice; name each once.")
    return tuple(chosen)


def parse_plan(
    plan: Mapping[int | str, Method], depth: int, knob: str = "layers", local: Collection[int] = ()
) -> dict[int, Method]:
    """Block -> method, ascending, of ranges with a method each: ``{"0-5": "exact", "6-11": "fna"}``; else as `parse_layers`."""
    if not plan:
        raise UserError(f"{knob}={{}}: names no block; write {{0-5: exact, 6-11: fna}}, a method for each range.")
    found: dict[int, Method] = {}
    for spec, method in plan.items():
        for block in parse_layers(spec, depth, knob, local):
            if block in found:
                raise UserError(f"{knob}: names block {block} twice ({spec}: {method}); give each block one method.")
            found[block] = method
    return dict(sorted(found.items()))


def _blocks(part: int | str, asked: str, depth: int) -> range:
    """The blocks that one part of what was ``asked`` names."""
    if part == "all":
        return range(depth)
    if part == "last-half":
        return range(depth // 2, depth)
    if part == "auto":
        raise UserError(f"{asked}: auto stands alone, and on the command line only, which measures it; {_choices(depth)}")
    # True is an int to Python and block 1 to nobody.
    match = None if isinstance(part, bool) else _RANGE.fullmatch(str(part))
    if match is None:
        meant = nearest(str(part), WORDS)
        raise UserError(f"{asked}: '{part}' is not a block, a range or a name; {meant}{_choices(depth)}")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    for number in (first, last):
        if not -depth <= number < depth:
            raise UserError(f"{asked}: this model has blocks 0-{depth - 1}; {_choices(depth)}")
    ends, (first, last) = (first, last), (first % depth, last % depth)
    if ends[0] >= 0 > ends[1]:  # 0--1 is more likely a mistyped 0-1 than a range up to the last block
        raise UserError(f"{asked}: '{part}' counts one end from the front, the other from the back; write \"{first}-{last}\".")
    if first > last:
        raise UserError(f"{asked}: the range '{part}' runs backwards; {_choices(depth)}")
    return range(first, last + 1)


def _shown(spec: Layers) -> str:
    return spec if isinstance(spec, str) else str(list(spec) if isinstance(spec, Sequence) else spec)


def _choices(depth: int) -> str:
    example = f"{depth // 2}-{depth - 1}"
    return f'use all, last-half, a range with both ends such as "{example}", or a list such as "0,{depth - 1}".'
