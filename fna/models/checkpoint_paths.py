"""From a path as somebody gives it to the one file of weights that it means, or to the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from fna.errors import UserError

FOLDER_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Weights that are no PyTorch's, by the names that transformers gave them, and what to give in their place.
FOREIGN = {"flax_model.msgpack": "Flax weights (JAX, msgpack)", "tf_model.h5": "TensorFlow weights (HDF5)"}
INSTEAD = "give PyTorch weights of the same model (model.safetensors, pytorch_model.bin)"
DCP = ".metadata"  # of torch's distributed checkpoints
GATHERS = "zero_to_fp32.py"  # that DeepSpeed puts beside what it saved in parts
ADAPTER = "adapter_config.json"  # of PEFT, which saves what it trained alone
# What training keeps beside weights in a folder, in files that end as theirs do.
SERVICE = re.compile(r"(training_args|optimizer|scheduler|scaler|sampler|rng_state|random_states)[_.]")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def weights_file(path: str | Path) -> Path:
    """The file of weights that ``path`` means: itself, or the one in a folder. Raises `UserError` where there is none."""
    if scheme := re.match(r"([a-z][a-z0-9+]*)://", str(path), re.IGNORECASE):
        here = "give it without file://" if scheme[1].lower() == "file" else "download it first and give the file"
        raise UserError(f"{path}: an address, not a path on this machine; {here}: model.checkpoint=PATH.")
    path = Path(path)
    try:
        folder, there = path.is_dir(), path.is_file()
    except OSError as error:  # a name that no system takes
        raise UserError(
            f"{str(path)[:200]}: no such checkpoint ({error.strerror}); give the file with model.checkpoint=PATH."
        ) from error
    if not folder:
        if not there:
            raise UserError(f"{path}: {_not_there(path)}; give a safetensors or torch file with model.checkpoint=PATH.")
        return path
    refuse_adapter(path)
    known = [path / name for name in FOLDER_FILES if (path / name).is_file()]
    known += sorted(file for file in path.iterdir() if is_index(file))  # of a variant: model.safetensors.index.fp16.json
    if known:
        return known[0]
    others = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in SUFFIXES and not SERVICE.match(file.name))
    _refuse_parts(path, others)
    if len(others) == 1 and not (path / DCP).is_file():  # meta.pt beside it holds no weights
        return others[0]
    raise UserError(f"{path}: no such checkpoint: {_in_folder(path, others)}; give the file with model.checkpoint=PATH.")


def refuse_adapter(folder: Path) -> None:
    """Raise `UserError` for a folder with an adapter of PEFT: without it the weights are those of before its training."""
    if (folder / ADAPTER).is_file():
        whole = any((folder / name).is_file() for name in FOLDER_FILES)
        bare = f"; for the weights as they were before, move {ADAPTER} away" if whole else ""
        raise UserError(
            f"{folder}: holds an adapter ({ADAPTER}), which fna does not put onto the weights that it changes; merge it into them "
            f"(merge_and_unload) and save the whole model{bare}."
        )


def is_index(path: Path) -> bool:
    """Whether a file is by its name the index of weights in several files, plain or of a variant (fp16)."""
    return re.search(r"\.index(\.\w+)?\.json$", path.name) is not None


PART = re.compile(r"(.+)-\d+-of-(\d+)(\.\w+)")  # of a checkpoint that is written in several files


def _refuse_parts(folder: Path, files: list[Path]) -> None:
    """Raise `UserError` for parts without the index that says what is in which."""
    parts = [found for file in files if (found := PART.fullmatch(file.name))]
    if parts:
        stem, whole, suffix = parts[0].groups()
        index = f"{stem}{suffix}.index.json"
        raise UserError(f"{folder}: no such checkpoint: it holds {len(parts)} of {int(whole)} parts, but no {index}; fetch it too.")


def part_of_several(path: str | Path) -> str:
    """The remedy for a file that is one of the parts of a checkpoint by its name; empty for others."""
    found = PART.fullmatch(Path(path).name)
    if found is None or int(found[2]) < 2:
        return ""
    index = Path(path).with_name(f"{found[1]}{found[3]}.index.json")
    rest = (
        f"give {index}, which reads all of them" if index.is_file() else f"fetch the others and {index.name}, and give the folder"
    )
    return f"; it is one of {int(found[2])} parts: {rest}"


def _not_there(path: Path) -> str:
    """Why there is no file at a path."""
    if path.is_symlink():
        return f"no such checkpoint: it is a link to {path.readlink()}, which is not there"
    if path.exists():
        return "no such checkpoint: it is neither a file nor a folder"
    if str(path).startswith("~"):
        return "no such checkpoint: shells know ~ at the start of a word alone, write the folder out"
    above = next((parent for parent in path.parents if parent.is_file()), None)
    return f"no such checkpoint: {above} is a file, not a folder" if above else "no such checkpoint"


def _in_folder(path: Path, files: list[Path]) -> str:
    if distributed := next((folder for folder in (path, *sorted(path.iterdir())) if (folder / DCP).is_file()), None):
        which = "the folder" if distributed == path else f"{distributed.name} in it"
        return (
            f"{which} is a distributed checkpoint of torch, which python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{distributed} FILE turns into a file"
        )
    if (path / GATHERS).is_file():
        return f"the folder is one of DeepSpeed's, whose weights python {path / GATHERS} {path} FOLDER gathers"
    if files:
        return f"the folder holds {len(files)} files of weights ({', '.join(file.name for file in files[:4])})"
    links = [path / name for name in FOLDER_FILES if (path / name).is_symlink()]
    if links:
        return f"{links[0].name} in it is a link to {links[0].readlink()}, which is not there"
    if others := [f"{name}, {what}" for name, what in FOREIGN.items() if (path / name).is_file()]:
        return f"the folder holds {' and '.join(others)}, which fna does not read: {INSTEAD}"
    below = folders_below(path, FOLDER_FILES)
    return f"the folder holds no weights{below and f', {below}'}"


def folders_below(path: Path, names: Iterable[str]) -> str:
    """Which folders one or two levels below hold a file of these ``names``, in words; empty for none.

    A trainer keeps one for each time it saved: checkpoint-500 comes before checkpoint-1000.
    """
    found = {file.parent for name in names for depth in ("*", "*/*") for file in path.glob(f"{depth}/{name}")}
    ordered = sorted(found, key=lambda folder: _counting(folder))
    if len(found) < 2:
        return "".join(f"{folder} does" for folder in ordered)
    return f"{len(found)} folders in it do: {', '.join(map(str, ordered[:4]))}{', ...' * (len(found) > 4)}"


def _counting(folder: Path) -> tuple[Path, str, list[int]]:
    """Sorts folders by name, those that differ in numbers by these."""
    return folder.parent, re.sub(r"\d+", "", folder.name), [int(number) for number in re.findall(r"\d+", folder.name)]
