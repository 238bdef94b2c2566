"""What a checkpoint file holds: what kind of file it is, read without running anybody's code."""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import re
import types
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from fna.errors import UserError, is_memory
from fna.mistaken import LFS, PACKED
from fna.models.checkpoint_paths import FOREIGN, INSTEAD, is_index, weights_file
from fna.models.pickled import pickle_protocol, tensors_key

PROTOCOL = 2  # of the pickles that torch writes
PICKLE = b"\x80"  # of torch files before the zip archives of torch 1.6
AGAIN = "fetch it again, or save it anew where it is your own"
ALONE = "torch.save(model.state_dict(), FILE)"
JAX = re.compile(r"(.*/)?Transformer/encoderblock(_\d+)?/.+")  # in Google's vision transformers, one by one or stacked
# A map of maps with short names, as Flax writes its parameters.
MSGPACK = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf]\w{1,31}([\x80-\x8f]|\xde..|\xdf....)", re.DOTALL)
# First bytes of what is often taken for a checkpoint, what it is, and what to do.
KINDS = (
    (b"GGUF", "a GGUF file of quantised weights", "give the weights as safetensors"),
    (b"\x89HDF", "an HDF5 file (Keras)", "give PyTorch weights"),
    (b"\x93NUMPY", "a numpy array", f"save the weights with {ALONE}"),
    *((sign, f"packed by {by}", "unpack it") for sign, by in PACKED),
)


def load(path: str | Path) -> Any:
    """What the file (or folder) at ``path`` holds, tensors on the CPU: a mapping, or whatever else was saved.

    The content decides how it is read, not the suffix. Raises `UserError` for what is missing, damaged or no checkpoint, and for
    Python objects that only running code could make.
    """
    file = weights_file(path)
    try:
        with file.open("rb") as opened:
            start = opened.read(512)
    except OSError as error:
        raise UserError(f"{file}: cannot be opened ({error.strerror}); mend its rights, or give a copy.") from error
    _refuse_others(file, start)
    if is_index(file):
        return _sharded(file)
    try:
        if start.startswith(b"PK"):
            _check_archive(file)
        elif start[8:9] == b"{" or (file.suffix == ".safetensors" and not start.startswith(PICKLE)):
            return _safetensors(file)
        elif start.startswith(PICKLE) and start[1] > PROTOCOL:
            raise UserError(f"{file}: a pickle that torch did not save, which could run code; save the weights with {ALONE}.")
        elif not start.startswith(PICKLE):
            raise UserError(
                f"{file}: cannot be read as a checkpoint: neither safetensors nor a torch file (it begins with {start[:8]!r}), or "
                f"truncated; {AGAIN}, or save the weights with {ALONE}."
            )
        return _torch(file)
    except UserError:
        raise
    except Exception as error:  # torch's unpickler raises whatever a damaged file leads it into
        if is_memory(error):
            raise
        raise _truncated(file, str(error)) from error


def tensor_names(path: str | Path) -> list[str] | None:
    """The names in a safetensors file or an index, without reading a tensor; None for other files and for damaged ones."""
    from safetensors import SafetensorError, safe_open

    try:
        file = weights_file(path)
        if is_index(file):
            return list(json.loads(file.read_text(encoding="utf-8-sig"))["weight_map"])
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return list(opened.keys())
    except (UserError, OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None  # `load` says what is wrong with it
    return None


def _refuse_others(file: Path, start: bytes) -> None:
    """Raise `UserError` for what is plainly something else than a checkpoint."""
    if not start:
        raise UserError(f"{file}: cannot be read as a checkpoint: it is empty, truncated to 0 bytes: {AGAIN}.")
    if start.startswith(LFS):
        raise UserError(f"{file}: a pointer of git-lfs, not the weights themselves; fetch those with git lfs pull.")
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise UserError(f"{file}: a web page (HTML), not weights: the download gave a page of its own; fetch the file again.")
    if what := _of_another_library(file, start):
        raise UserError(f"{file}: {what}, no checkpoint that fna reads; {INSTEAD}.")
    for magic, what, remedy in KINDS:
        if start.startswith(magic):
            raise UserError(f"{file}: {what}, no checkpoint that fna reads; {remedy}.")
    if start.lstrip()[:1] == b"{" and file.suffix == ".json" and not is_index(file):
        raise UserError(f"{file}: a JSON file, not weights; give the safetensors or torch file beside it, or the folder.")


def _of_another_library(file: Path, start: bytes) -> str:
    """What a file of Flax or of transformers' TensorFlow models is; empty for others."""
    if MSGPACK.match(start):
        return FOREIGN["flax_model.msgpack"]
    return FOREIGN["tf_model.h5"] if start.startswith(b"\x89HDF") and file.name.startswith("tf_model") else ""


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise _truncated(file, str(error)) from error


def _truncated(file: Path, reason: str) -> Exception:
    """What a file is told that its library cannot read; a machine without room for it is not the file's fault."""
    if "allocate memory" in reason:
        return MemoryError(f"{file}: {reason}")
    reason = next(iter(reason.strip().splitlines()), "").rstrip(" .:")[:200]
    if reason.startswith("Weights only load failed"):  # advice for programmers follows
        reason = "its pickle is damaged, or torch did not save it"
    return UserError(
        f"{file}: cannot be read as a checkpoint ({reason}); it is truncated or in another format "
        f"(safetensors or a plain torch file is wanted): {AGAIN}."
    )


def _sharded(index: Path) -> dict[str, torch.Tensor]:
    """Every tensor that an index of transformers names, from the files that it lies in."""
    try:
        places = dict(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: no index of weights ({error}); it must hold weight_map. Fetch it again.") from error
    if odd := [part for part in places.values() if not isinstance(part, str) or part.endswith(".json")]:
        raise UserError(f"{index}: no index of weights (weight_map names {odd[0]!r}, no file of tensors). Fetch it again.")
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(set(places.values())):
        if not (index.parent / shard).is_file():
            raise UserError(f"{index.parent / shard}: is not there, {index.name} names it; fetch all parts.")
        found |= load(index.parent / shard)
    if lost := sorted(set(places) - set(found)):
        raise UserError(f"{index}: names {len(lost)} tensors that its parts do not hold (first: {lost[0]}); fetch them again.")
    return found


def _check_archive(file: Path) -> None:
    """Raise `UserError` for a zip that torch did not make, or made of code."""
    if not zipfile.is_zipfile(file):
        raise _truncated(file, "a zip archive without its end")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    inner = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise UserError(
            f"{file}: cannot be read as a checkpoint: it is a TorchScript archive, which holds code; save its tensors alone: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), NEW)."
        )
    if "data.pkl" not in inner:
        if names and all(name.endswith(".npy") for name in names):
            raise UserError(f"{file}: {_arrays(names)}")
        what = ", ".join(names[:3]) or "nothing"
        raise UserError(f"{file}: cannot be read as a checkpoint: a zip of something else ({what}); unpack it first.")


def _arrays(names: list[str]) -> str:
    """What a zip of numpy arrays is, and how to make it a checkpoint: timm turns Google's, in JAX's layout."""
    if any(JAX.fullmatch(name) for name in names):
        return (
            "numpy arrays (npz) of a vision transformer in JAX's layout, as Google publishes them, no checkpoint that fna reads; "
            "timm turns them: m = timm.create_model(NAME, num_classes=N); m.load_pretrained(FILE); torch.save(m.state_dict(), NEW)."
        )
    made = "{name: torch.from_numpy(array) for name, array in np.load(FILE).items()}"
    return f"numpy arrays (npz), no checkpoint that fna reads; make them tensors: torch.save({made}, NEW)."


def _torch(file: Path) -> Any:
    """A torch file, with the plain objects that training scripts leave beside the tensors."""
    try:
        # opened, for torch takes a path for safetensors by its suffix
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()), file.open("rb") as opened:
            warnings.simplefilter("ignore")  # of pickles that it may not be able to read: it reads them or it does not
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error) and (protocol := pickle_protocol(file)) > PROTOCOL:
            raise UserError(
                f"{file}: was saved with pickle_protocol={protocol}, which torch opens by running code alone; where you trust the "
                "file, save it again: torch.save(torch.load(FILE, weights_only=False), NEW)."
            ) from error
        names = _objects(file, str(error))
        if not names:
            raise
        raise UserError(_refused_objects(file, names)) from error


def _refused_objects(file: Path, names: list[str]) -> str:
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    key = tensors_key(file)
    taken = f"torch.load(FILE, weights_only=False){f'[{key!r}]' if key else ''}"
    if not key:
        taken = f"{{name: tensor for name, tensor in {taken}.items() if isinstance(tensor, torch.Tensor)}}"
    if any(name.startswith("torch.nn.modules.") for name in names):
        return f"{file}: holds a whole pickled model ({shown}), which only its code can open; save its tensors alone: {ALONE}."
    return (
        f"{file}: holds Python objects beside its tensors ({shown}), which only code could open; fna runs none. Save the "
        f"tensors alone where you trust the file: torch.save({taken}, NEW)."
    )


def _objects(file: Path, message: str) -> list[str]:
    """The classes and functions in a torch file that are not harmless, by name; empty where that is not what stopped it."""
    with torch.serialization.safe_globals(_harmless()), file.open("rb") as opened:
        try:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(opened)
        except Exception:  # files older than torch 1.6 are not looked through; the message names the first one
            found = []
    named = _NAMED.search(message)
    return sorted(set(found)) or [name for name in (named.groups() if named else ()) if name]


_NAMED = re.compile(
    r"GLOBAL (\S+) was not an allowed|Trying to (?:instantiate unsupported|call reduce for unrecognized) \w+ (.+?)[\s.]*$",
    re.MULTILINE,
)


def _harmless() -> list[Any]:
    """What a training script leaves beside its tensors and what runs nothing when it is made: settings, paths, numbers."""
    import _codecs
    import datetime

    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    rebuild = np.zeros(1).__reduce__()[0]
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        defaultdict,
        datetime.datetime,
        datetime.timedelta,
        *((pathlib.PurePosixPath, name) for name in ("pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.PurePosixPath")),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in "?bhilqBHILQefdUS"},
        _codecs.encode,
    ]
