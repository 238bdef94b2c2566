"""``--help``: five commands worth knowing, every choice of every group, every root knob."""

from __future__ import annotations

from dataclasses import fields

from fna.configs import CONF, choices, program, summary
from fna.schema import Knobs

GROUPS = ("model", "dataset", "task", "attn", "sampler", "reduce", "mask", "kv", "logger", "experiment")
COMMANDS = (
    ("model=clip attn=fna landmarks=64", "one comparison, on embedded weights and scenes"),
    ("model=vit_tiny_tinyimagenet dataset=tiny_imagenet layers=6-11 landmarks=32", "a real ViT on real photographs"),
    ("-m sampler=fps,uniform,random landmarks=16,32,64", "a sweep, one report"),
    ("model=clip dataset=coco_val2017 dataset.root=DIR model.checkpoint=FILE", "your own weights and data"),
)
RULES = (
    "A run goes to outputs/runs/TIME, a sweep to outputs/sweeps/TIME; hydra.run.dir=DIR or hydra.sweep.dir=DIR puts it elsewhere.",
    "Each word once; several values are a sweep, with -m. A value with braces, = or brackets: \"task.prompt='a photo of {}'\".",
    "landmarks and sampler are refused where attn uses neither; in a sweep over attn it is enough that one of the methods does.",
)


def help_text() -> str:
    """The whole help, read from ``conf/``, so that a new YAML file is in it by being there."""
    parts = ["fna: full attention against training-free approximations of it, in pairs.", "", "Commands worth knowing:"]
    for words, what in COMMANDS:
        parts += [f"  {program()} {words}", f"      {what}"]
    parts += ["  python -m fna.report outputs", "      one table and one page from every result below a folder"]
    for group in GROUPS:
        options = choices(group)
        width = max((len(name) for name in options), default=0)
        parts += ["", f"{group}="]
        parts += [f"  {name:<{width}}  {summary(file)}".rstrip() for name, file in options.items()] or ["  (none yet)"]
    parts += ["", "Knobs (defaults, with what they mean in conf/config.yaml):"]
    comments = _comments()
    for knob in fields(Knobs):
        if knob.name not in GROUPS and knob.name in comments:
            parts.append(f"  {comments[knob.name]}")
    parts += ["", "`--cfg job --resolve` prints the composed config; a group's keys are set as attn.steps=8, dataset.root=DIR."]
    parts += [f"  {line}" for line in RULES]
    return "\n".join(parts)


def _comments() -> dict[str, str]:
    found = {}
    for line in (CONF / "config.yaml").read_text(encoding="utf-8").splitlines():
        name, colon, _ = line.partition(":")
        if colon and name.isidentifier():
            found[name] = line
        elif colon and found:  # a key below the last one
            found[next(reversed(found))] += f"\n  {line}"
    return found
