"""Compiles what is in ``cpp/`` for the processor at hand, once, with the C++ compiler at hand, and loads it.

No headers but the compiler's own are needed, so it takes seconds. The library lies in the cache folder (``$FNA_CACHE``, else
``~/.cache/fna``) under a digest of sources, flags, compiler and processor, and one of its content: a machine of another kind that
shares the folder builds its own, and what was damaged is built anew. It is linked to the OpenMP library in torch's own folder,
where there is one, so that both share one pool of threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from fna.errors import UserError
from fna.folders import cache_folder, check_cache

SOURCES = Path(__file__).with_name("cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
PATIENCE = 300  # seconds


class NotBuilt(Exception):
    """Why there is no library, in a few words."""


def library() -> ctypes.CDLL:
    """The compiled kernels, built where that has not been done; `NotBuilt` where it cannot be."""
    compiler = _compiler()
    files = sorted(SOURCES.glob("*.cpp"))
    try:
        name = f"kernels-{_digest(compiler, files)}"
        place = _whole(_cache(), name) or _build(compiler, files, _cache(), name)
    except OSError as error:  # also a compiler that does not start
        raise NotBuilt(f"{error.filename or error}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NotBuilt(f"{compiler[0]} took more than {PATIENCE} seconds") from error
    try:
        return ctypes.CDLL(str(place))
    except OSError as error:
        raise NotBuilt(f"{place} cannot be loaded ({error}); delete it to build it anew") from error


def _compiler() -> list[str]:
    """The command: CXX, which may have words of its own ("ccache g++"), or the first usual one that there is."""
    asked = os.environ.get("CXX")
    try:
        choices = [shlex.split(asked)] if asked else [[name] for name in COMPILERS]
    except ValueError as error:
        raise NotBuilt(f"CXX={asked} is no command ({error})") from error
    for words in choices:
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    raise NotBuilt(f"CXX={asked} is not a program" if asked else "no C++ compiler found")


def _cache() -> Path:
    try:
        check_cache()  # a link that leads nowhere would be followed
        return cache_folder().resolve()
    except UserError as error:
        raise NotBuilt(str(error).rstrip(".")) from error


def _digest(compiler: list[str], files: list[Path]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False, timeout=PATIENCE).stdout
    parts = [file.read_bytes() for file in (*files, *sorted(SOURCES.glob("*.hpp")))]
    told = " ".join([*compiler, *FLAGS, *_openmp(), _processor()]).encode()
    return hashlib.sha256(b"\0".join([*parts, version, told])).hexdigest()[:16]


def sources() -> str:
    """A digest of the kernels' text, which is all that they are known by before a compiler is found."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in sorted(SOURCES.iterdir()))).hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = re.compile(r"vendor_id|cpu family|model\b|flags|Features|CPU part")
    told = {line.split(":")[0].strip(): line for line in lines if wanted.match(line)}
    return "\n".join(told.values()) + platform.machine()


def _openmp() -> list[str]:
    """Linker words for the OpenMP library that torch brought, ahead of the compiler's own, which is then not needed."""
    folder = str(Path(torch.__file__).resolve().parent)
    try:
        loaded = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:
        return []
    found = sorted(path for path in loaded if path.startswith(folder) and re.match(r"lib[gi]?omp", Path(path).name))
    return ["-Wl,--as-needed", found[0]] if found else []


def _whole(folder: Path, name: str) -> Path | None:
    """The library whose content has the digest in its name; one that was damaged since, which could do anything, is removed."""
    for place in sorted(folder.glob(f"{name}-*.so")):
        if place.is_file() and place.stem == f"{name}-{_content(place)}":
            return place
        if place.is_file():
            place.unlink(missing_ok=True)
    return None


def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _build(compiler: list[str], files: list[Path], folder: Path, name: str) -> Path:
    """Under another name first: a half-written library is never found, and whoever builds at the same time does no harm."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as bench:
        made = Path(bench) / "kernels.so"
        command = [*compiler, *FLAGS, *map(str, files), *_openmp(), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        if done.returncode != 0:
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise NotBuilt(f"{compiler[0]} failed: {complaint}")
        place = folder / f"{name}-{_content(made)}.so"
        os.replace(made, place)
    return place
