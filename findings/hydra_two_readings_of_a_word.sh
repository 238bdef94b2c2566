#!/usr/bin/env bash
# hydra-core 1.3.8 with omegaconf 2.3.1: one word is two values, by whether it stands in a YAML file or on the command line.
#
# Expected: `python run.py layers=13:24` means what `layers: 13:24` means in the config that it overrides.
# Seen (left in YAML, right on the command line; both are accepted without a word, for a knob that has no type):
#     13:24   804 (13 minutes of 60 seconds) | "13:24"        010  8 (octal) | "010"       0x10  16 | "0x10"       0b11  3 | "0b11"
#     on, no  True, False                    | "on", "no"     inf  "inf"     | inf         nan   "nan" | nan       tRUE  "tRUE" | True
# Alike are 1e3, .5, 1_000, null and true. "no" on the command line turns an untyped switch on, because a non-empty string is true.
# A schema with types mends switches and floats, but not all: for an int, 010 is 8 in a file and 10 on the command line, 13:24 is 804 in
# a file and an error on the command line; for a str, `on` in a file is "True".
# So an experiment file made from a command line that worked can be another experiment.
# What to do: quotes in YAML round whatever is no plain number or word, and a look at the composed config, not at what was typed.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir hydra-core==1.3.8 omegaconf==2.3.1
cd "$room"
"$room/venv/bin/python" -I - <<'PYTHON'
import math
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf

SEEN = {
    "13:24": (804, "13:24"),
    "010": (8, "010"),
    "0x10": (16, "0x10"),
    "0b11": (3, "0b11"),
    "on": (True, "on"),
    "no": (False, "no"),
    "inf": ("inf", math.inf),
    "tRUE": ("tRUE", True),
    "1e3": (1000.0, 1000.0),
    ".5": (0.5, 0.5),
    "1_000": (1000, 1000),
    "null": (None, None),
    "true": (True, True),
}
for number, (word, expected) in enumerate(SEEN.items()):
    Path(f"in_file{number}.yaml").write_text(f"knob: {word}\n")
    Path("empty.yaml").write_text("knob: nothing\n")
    with initialize_config_dir(str(Path.cwd()), version_base="1.3"):
        readings = compose(f"in_file{number}").knob, compose("empty", [f"knob={word}"]).knob
    print(f"{word:6} in YAML {readings[0]!r:8} on the command line {readings[1]!r}")
    assert [(type(one), one) for one in readings] == [(type(one), one) for one in expected], f"changed: {word}"


@dataclass
class Typed:
    count: int = 0
    name: str = ""


def in_file(text: str) -> Typed:
    return OmegaConf.merge(OmegaConf.structured(Typed), OmegaConf.create(text))


def on_line(text: str) -> Typed:
    ConfigStore.instance().store("typed", Typed)
    with initialize_config_dir(str(Path.cwd()), version_base="1.3"):
        return compose("typed", [text])


assert (in_file("count: 010").count, on_line("count=010").count) == (8, 10), "changed: 010 for an int"
assert (in_file("name: on").name, on_line("name=on").name) == ("True", "on"), "changed: on for a str"
assert in_file("count: 13:24").count == 804, "changed: 13:24 for an int"
try:
    on_line("count=13:24")
except HydraException:
    print("typed: 010 is 8 or 10, 13:24 is 804 or an error, on is 'True' or 'on'")
else:
    raise SystemExit("changed: 13:24 is taken for an int on the command line")
PYTHON
