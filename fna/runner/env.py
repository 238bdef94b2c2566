"""The machine a run is on: device, dtype, seeds, versions."""

from __future__ import annotations

import ctypes
import os
import platform
import random
from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.machine import processor, said

SPINS = "10000"  # some ten microseconds: the next region often comes sooner
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
PACKAGES = ("fna", "torch", "torchvision", "timm", "open_clip_torch", "transformers", "torch-quickfps", "hydra-core", "numpy")


def choose_device(wanted: str) -> str:
    """Turn "auto" into a device; refuse one that is not there."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"device={wanted}: not a device; give auto, cpu, cuda or cuda:1.") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={wanted}: fna runs on cpu and cuda only; give one of them, or auto.")
    if device.type == "cpu" and device.index:  # torch takes any number, and there is one
        raise UserError(f"device={wanted}: there is one CPU; give cpu.")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(f"device={wanted}: this machine has no such GPU; use device=cpu or auto.")
    return wanted


def keep_freed_memory() -> bool:
    """Keep what is freed in the process, where the C library is glibc; whether that was done.

    By default glibc gives every large block back to the kernel at once, and a forward pass on the CPU spends a third of its time
    getting zeroed pages again. It serves all variants alike.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def fuse_stock_attention(device: str) -> None:
    """Let `torch.nn.MultiheadAttention` (open_clip's towers) go by fused attention on a CPU too.

    In inference it takes a "fast path" of its own, which makes the N x N weights on a CPU: at 1,025 tokens it takes 1.3 times as
    long in float32, 2.4 in bfloat16 (one of 12 heads with 50 tokens is 4 to 9 % faster by it). Full attention and the blocks that a
    run leaves alone are then as fast as torch has them, and nothing is gained over a slow way of doing the same.
    """
    import torch

    torch.backends.mha.set_fastpath_enabled(device != "cpu")


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's threads sleep soon while they wait for each other. Only before torch is loaded, and where nobody said otherwise.

    libgomp has a thread spin for milliseconds at the end of each parallel region. With as many threads as cores and anything else
    at work, that time is taken from the thread it waits for: the study of ``task=tokens`` on eight images took 46 s of processor
    time with two threads on a busy machine of two cores, 9 s with one, and 12 s with this.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment):
        environment["GOMP_SPINCOUNT"] = SPINS


def spare_bytes(most: int = 4 << 30) -> int:
    """How much memory may be filled with what can be made again: a quarter of what is free, at most ``most``."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in os.sysconf_names else most
    return min(most, free // 4)


def seed_everything(seed: int) -> None:
    """Seed Python and torch (numpy users get explicit generators)."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)


def commit() -> str | None:
    """The commit of the checkout that fna is run from, with "-dirty" where the tree differs; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed fna may lie inside somebody else's checkout
        return None
    return said("git", "describe", "--always", "--dirty", cwd=root)


def environment(device: str) -> dict[str, Any]:
    """Versions, threads and hardware, for ``result.json``."""
    import torch

    from fna.ops import absorbed
    from fna.ops.kernels import cpu, paths

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "commit": commit(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_kernels": cpu.built(),
        "cpu_ways": dict(paths.taken),
        "cpu_path": paths.pinned(),
        "cpu_absorbed": sorted(absorbed.taken),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }
