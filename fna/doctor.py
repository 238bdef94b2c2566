"""What fna finds on this machine, and which way each piece of its attention goes here: ``python -m fna.doctor``.

The ways are timed for common shapes where they are not known yet (some seconds, see `fna.ops.kernels.paths`); ``--again`` times
them anew, ``--all`` tells those of other shapes that runs met as well.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take a while
    run("fna.doctor")

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fna.commands import Parser
from fna.errors import UserError
from fna.machine import has_bfloat16
from fna.runner.env import environment
from fna.streams import never_fail
from fna.values import counted

SHAPES = ((1, 16, 1025, 64), (4, 16, 1025, 64), (1, 16, 4097, 64), (1, 16, 4097, 256))  # images, heads, tokens, landmarks
WIDTH = 64


def main(words: Sequence[str] | None = None) -> int:
    """Prints the machine, the kernels and the ways; exit status 1 where something that was asked for cannot be had."""
    parser = Parser(prog="python -m fna.doctor", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--again", action="store_true", help="time the ways anew")
    parser.add_argument("--all", action="store_true", help="the ways of all shapes that runs met here")
    never_fail()
    try:
        args = parser.parse_args(words)
        for line in machine_lines():
            print(line)
        print()
        for line in way_lines(again=args.again, every=args.all):
            print(line)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def machine_lines() -> list[str]:
    """Versions, processor and kernels, a line each."""
    import torch

    from fna.ops.kernels import build, cpu

    found = environment("cuda" if torch.cuda.is_available() else "cpu")
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    try:
        build.library()
        kernels = "built"
    except build.NotBuilt as reason:
        kernels = f"not built: {reason}; plain torch runs in their place"
    slow_pairs = cpu.built() and not cpu.multiplies_pairs()
    return [
        f"versions    {versions}, Python {found['python']}",
        f"processor   {found['cpu']}, {counted(found['cores'], 'core')}, {counted(found['threads'], 'thread')} of torch"
        f", {'multiplies bfloat16 itself' if has_bfloat16() else 'has no products of bfloat16'}"
        f"{', no faster than float32: the C++ kernels turn it to that' if has_bfloat16() and slow_pairs else ''}",
        f"GPU         {found['gpu'] or 'none'}",
        f"C++ kernels {kernels}{'' if found['cpu_kernels'] else ' (FNA_CPU_KERNELS=0: not used)' if kernels == 'built' else ''}",
    ]


def way_lines(*, again: bool = False, every: bool = False) -> list[str]:
    """The way of each piece for common shapes, or for ``every`` one on record, with the milliseconds that it was chosen by."""
    import torch

    from fna.ops.inverse import WORTHWHILE, cheapest
    from fna.ops.kernels import cpu, paths
    from fna.ops.short import few_keys, few_queries

    pinned = paths.pinned()
    if pinned == "kernels" and not cpu.built():
        raise UserError("FNA_CPU_PATH=kernels: there are none here, for the reason above; unset it to have the other ways timed.")
    if pinned is not None:
        return [f"every piece that can go by {pinned} does, since FNA_CPU_PATH says so"]
    file = paths.record_file()
    if again:
        paths.forget()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            for images, heads, tokens, landmarks in SHAPES:
                many = torch.randn(images, heads, tokens, WIDTH, generator=generator).to(dtype)
                few = many[:, :, :landmarks]
                few_queries(few, many, many, WIDTH**-0.5, None)
                few_keys(many, few, few, WIDTH**-0.5, None)
    common: dict[str, dict[str, Any]] = {
        name: {"way": way, "ms": {}} for name, way in paths.taken.items()
    }  # of this process: those just asked for
    stored = common | paths.record().get("ways", {})
    told = {name: entry for name, entry in stored.items() if every or name in common}
    lines = [f"ways        another than the kernels is taken where it needs less than {paths.PLAINLY:g} of their time"]
    lines += _columns([("piece, dtype, heads x tokens x landmarks x width", "way", "ms"), *map(_way, told, told.values())])
    lines += [f"            {len(stored) - len(told)} more shapes that runs met here: --all"] if len(told) < len(stored) else []
    method, _, ridge = cheapest(WORTHWHILE)
    lines += [
        f"kept in     {file}" if file.is_file() else f"not kept    {file} cannot be written: every process times anew",
        f"inverse     auto is {method} ({ridge:g}) from {WORTHWHILE} landmarks on, six Newton steps below",
    ]
    return lines


def _way(name: str, entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return name, entry["way"], ", ".join(f"{way} {ms:.2f}" for way, ms in entry["ms"].items())


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines whose columns stand apart."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return ["            " + "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
