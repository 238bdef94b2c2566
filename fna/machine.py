"""What this machine calls its processor."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CPU_KEYS = ("model name", "Model", "Hardware")  # on x86, on boards with ARM


def processor() -> str:
    """The processor by its name, and its family and model: a virtual machine may call each generation of a make the same."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    told = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())]
    named = [value for key, value in told if key in CPU_KEYS]
    if not named and platform.system() == "Darwin":
        named = [said("sysctl", "-n", "machdep.cpu.brand_string") or ""]
    name = " ".join(next(filter(None, named), "").split()) or platform.processor() or platform.machine()
    first = dict(reversed(told))  # of the first core
    kind = [f"{word} {first[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in first]
    return ", ".join([name, *kind])


def said(*command: str, cwd: Path | None = None) -> str | None:
    """What a program prints, stripped; None where it is not there, fails or is silent."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers itself (AVX512-BF16, AMX, or ARM's BF16)."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = {word for line in text.splitlines() if line.partition(":")[0].strip() in ("flags", "Features") for word in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
