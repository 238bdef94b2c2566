#!/usr/bin/env bash
# torch 2.15.0: torch.load reads by the name of a file, torch.save does not write by it. A checkpoint saved to NAME.safetensors cannot be loaded again.
#
# Expected: torch.load looks at the bytes, as it does for its own zip and legacy formats and for TorchScript, and reads back what torch.save wrote.
# Seen: torch.save writes its zip under any name, without a word; torch.load of a path that ends in .safetensors hands the file to safetensors, which
# refuses the zip's head, with an error that names neither torch.save nor a remedy. The same bytes load from an open file, and from the path under another
# suffix. The other way round too: a true safetensors file loads by its path and is refused through an open file, or as NAME.bin. mmap=True is not
# looked at for such a path, and the metadata of the file is dropped; a dict or a callable as map_location is an error there, though both are usual.
# So a loop that saves to whatever name the user gave and resumes from it loses its checkpoint at the resume, which is hours later.
# What to do: choose the reader by the first bytes (a safetensors file begins with the length of its head, 8 bytes, then "{"), open torch's own by handle.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
cd "$room"
"$room/venv/bin/python" -I - <<'PYTHON'
import shutil
from collections.abc import Callable

import safetensors.torch
import torch

weights = {"weight": torch.arange(6.0).view(2, 3)}
torch.save(weights, "resumed.safetensors")
shutil.copy("resumed.safetensors", "resumed.pt")
safetensors.torch.save_file(weights, "true.safetensors", metadata={"step": "100"})
shutil.copy("true.safetensors", "true.bin")


def opened(name: str) -> object:
    with open(name, "rb") as file:
        return torch.load(file)


def outcome(call: Callable[[], object]) -> str:
    try:
        found = call()
    except Exception as error:
        return type(error).__name__
    assert isinstance(found, dict) and set(found) == {"weight"} and torch.equal(found["weight"], weights["weight"])
    return "loaded"


SEEN = {
    "torch.save's, path .safetensors": (lambda: torch.load("resumed.safetensors"), "SafetensorError"),
    "torch.save's, open file": (lambda: opened("resumed.safetensors"), "loaded"),
    "torch.save's, path .pt": (lambda: torch.load("resumed.pt"), "loaded"),
    "safetensors', path .safetensors": (lambda: torch.load("true.safetensors"), "loaded"),
    "safetensors', open file": (lambda: opened("true.safetensors"), "UnpicklingError"),
    "safetensors', path .bin": (lambda: torch.load("true.bin"), "UnpicklingError"),
    "safetensors', map_location={}": (lambda: torch.load("true.safetensors", map_location={}), "RuntimeError"),
    "torch.save's .pt, map_location={}": (lambda: torch.load("resumed.pt", map_location={}), "loaded"),
}
for what, (call, expected) in SEEN.items():
    seen = outcome(call)
    print(f"{what}: {seen}")
    assert seen == expected, f"changed: {expected} before"
PYTHON
