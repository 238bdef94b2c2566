"""The speed benchmark: ``make bench``, or

python scripts/bench.py                          # operation over tokens on this machine's device, and whole models
python scripts/bench.py --check                  # what is promised on a CPU; --only operation,grid,vit_b,...: parts of it
python scripts/bench.py --gpu-check              # what is promised on a GPU; exit status 1 where a promise fails
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("bench")

import argparse
import itertools
import sys
from pathlib import Path

import torch

from fna.configs import choices
from fna.errors import UserError
from fna.runner.env import choose_device, environment, keep_freed_memory
from fna.runner.speed import check, cpu_check, ops, page
from fna.runner.speed.floors import Machine, measure_machine
from fna.runner.speed.models import SHAPES, ModelCase, sweep_models

INSTRUMENTS = ("low_rank",)  # singular vectors of the N x N matrix: minutes at a thousand tokens, so only if asked for by name


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=numbers, default=[257, 577, 1025, 2049, 4097], help="e.g. 257,1025")
    parser.add_argument("--batch", type=numbers, default=[4])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--landmarks", type=numbers, default=[64])
    parser.add_argument("--dtype", type=names, default=None, help="default: float32; with --check float32,bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--attn", type=names, default=None, help="methods of conf/attn; if not given, all that can be built but instruments"
    )
    parser.add_argument(
        "--models", type=names, default=["vit_b:512:2"], help=f"shape:pixels:batch of {', '.join(SHAPES)}; '' for none"
    )
    parser.add_argument("--layers", type=names, default=["last-half", "all"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--check", action="store_true", help="the promises for a CPU")
    parser.add_argument(
        "--only",
        type=names,
        default=list(cpu_check.PARTS),
        help=f"with --check: some of {', '.join(cpu_check.PARTS)} (models: --layers)",
    )
    parser.add_argument("--gpu-check", action="store_true", help="the promises for a GPU")
    return parser.parse_args()


def usable(wanted: list[str] | None) -> list[str]:
    """The methods that can be built and called on plain q, k, v; the others are named once."""
    found = []
    for name in wanted or [choice for choice in choices("attn") if choice not in INSTRUMENTS]:
        try:
            op = ops.attentions([name], 8)[name]
            q, k, v = torch.randn(3, 1, 2, 50, 16)
            op(q, k, v, ops.Case(tokens=50, width=16).site())
        except (UserError, ValueError) as error:
            print(f"left out: {name} ({error})")
            continue
        found.append(name)
    return found


def sweep(args: argparse.Namespace) -> tuple[list[ops.Row], dict[str, Machine]]:
    device = torch.device(choose_device(args.device))
    methods, asked = usable(args.attn), args.dtype or ["float32"]
    dtypes = [getattr(torch, name) for name in asked]
    machines = {dtype: measure_machine(device, dtype) for dtype in dtypes}
    cases = [
        ops.Case(batch, args.heads, tokens, args.width, marks, dtype, device)
        for dtype, batch, marks, tokens in itertools.product(dtypes, args.batch, args.landmarks, args.tokens)
    ]
    rows = ops.sweep(cases, methods, machines, args.rounds, say)
    models = [
        ModelCase(shape, int(size), int(batch), layers, args.landmarks[0], asked[0], str(device))
        for (shape, size, batch), layers in itertools.product((text.split(":") for text in args.models), args.layers)
    ]
    rows += sweep_models(models, methods, max(5, args.rounds // 2), say)
    return rows, {f"{device} {str(dtype).removeprefix('torch.')}": machine for dtype, machine in machines.items()}


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    try:
        return measured(arguments())
    except UserError as problem:
        sys.exit(str(problem))


def measured(args: argparse.Namespace) -> int:
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    findings: list[check.Finding] = []
    machines: dict[str, Machine] = {}
    device = "cpu"
    if args.gpu_check:
        device = choose_device("cuda")
        findings, rows = check.gpu_checks(args.rounds, say)
    elif args.check:
        findings, rows = cpu_check.cpu_checks(args.rounds, say, args.only, args.layers, args.dtype or cpu_check.DTYPES)
    else:
        device = choose_device(args.device)
        rows, machines = sweep(args)
    about = environment(device)
    about = {
        "processor": about["cpu"],
        "torch": about["versions"].get("torch"),
        "cores": about["cores"],
        "threads": about["threads"],
        "gpu": about["gpu"],
    }
    written = page.write_page(args.out, rows, findings, machines, about)
    for finding in findings:
        say(finding.line())
    say(f"page: {written}")
    return 1 if any(not finding.holds for finding in findings) else 0
