"""Weights: read without running anybody's code, fitted or refused in one line, named by what they contain."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fna.errors import UserError, is_memory
from fna.models.checkpoint_files import load
from fna.models.checkpoint_paths import part_of_several, weights_file
from fna.models.checkpoints import unpack

State = Mapping[str, Tensor]
WEIGHTS = (".weight", ".bias")
# What quantising libraries (bitsandbytes, GPTQ, fp8, torch's own) put beside weights or in their place.
QUANTISED = (
    *(".SCB", ".absmax", ".quant_map", ".qweight", ".qzeros", ".weight_scale", ".weight_scale_inv", ".weight_packed"),
    ".zero_point",
)


def digest(state: State) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, in the order of names: the same wherever the file lies."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def check_choice(name: str, pretrained: bool, checkpoint: str | None, random: bool) -> None:
    """Raise `UserError` unless a model was told where its weights come from; random ones must be asked for."""
    if random and checkpoint is not None:
        raise UserError(f"model.checkpoint={checkpoint} and model.random=true exclude each other; drop one of them.")
    if not (pretrained or checkpoint or random):
        raise UserError(
            f"{name} has no weights: give model.checkpoint=PATH or model.pretrained, or model.random=true for random ones."
        )


def check_random(random: bool, **of_a_file: str | None) -> None:
    """Raise `UserError` for an option that is of a file of weights (``sha256``, ``part``) beside random ones."""
    given = [f"model.{key}={value}" for key, value in of_a_file.items() if value is not None]
    if random and given:
        raise UserError(f"{given[0]}: is of a file of weights, model.random=true has none; drop one of them.")


def check_file(path: str | Path | None, sha256: str | None = None) -> None:
    """Raise `UserError` where the checkpoint is not there or, with ``sha256``, is not the very file that is meant."""
    if path is None:
        return
    path = weights_file(path)
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise UserError(f"{path}: its sha256 is {found}, not {sha256}: the file was changed or is another one; fetch it again.")


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a torch file, on the CPU, out of the usual containers and prefixes.

    Raises `UserError` for a file that is missing, truncated, or no mapping of names to tensors.
    """
    return unpack(load(path), (), path).state


def fit(model: torch.nn.Module, state: State, source: str | Path, what: str) -> None:
    """Load every tensor into ``model``, or raise `UserError` saying what of ``source`` does not fit ``what``."""
    problem = misfit(model.state_dict(), state)
    if problem:
        raise UserError(f"{source}: does not fit {what}: {problem}{part_of_several(source)}.")
    model.load_state_dict(dict(state), strict=True)


def misfit(expected: State, got: State) -> str:
    """What keeps ``got`` from being loaded where ``expected`` is; empty if nothing does."""
    shapes = [name for name in expected if name in got and got[name].shape != expected[name].shape]
    if shapes:
        name = shapes[0]
        more = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        return f"{name} is {list(got[name].shape)}, expected {list(expected[name].shape)}{more}"
    if whole := whole_numbers(expected, got):
        return whole
    missing = [name for name in expected if name not in got]
    if missing and (marked := [name for name in got if name.endswith(QUANTISED)]):
        return f"it holds quantised weights (first: {marked[0]}), which only their own library unpacks; save them in 16 or 32 bits"
    unknown = [name for name in got if name not in expected]
    if missing:
        # most of them: they may well be there under other names, of which one is shown
        other = f", and {unknown[0]} of the file has no place there" if unknown and 2 * len(missing) > len(expected) else ""
        return f"{len(missing)} of {len(expected)} tensors are missing (first: {missing[0]}){other}"
    return f"{len(unknown)} of its tensors have no place there (first: {unknown[0]})" if unknown else ""


def whole_numbers(expected: State, got: State) -> str:
    """That weights are whole numbers, as quantised ones are without their scales; empty where none are."""
    floats = [name for name in got if name not in expected or expected[name].is_floating_point()]
    whole = [name for name in floats if not got[name].is_floating_point() and (name in expected or name.endswith(WEIGHTS))]
    if not whole:
        return ""
    kind = str(got[whole[0]].dtype).removeprefix("torch.")
    more = f" (and {len(whole) - 1} more)" if len(whole) > 1 else ""
    return f"{whole[0]} holds whole numbers ({kind}){more}, quantised weights; save them in 16 or 32 bits"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from ``seed`` without disturbing the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def downloading(what: str, knob: str = "model.checkpoint") -> Iterator[None]:
    """Let a library fetch something; a failure becomes one line that names it and says how (``knob``) to give a local copy.

    Without a network the libraries retry for a minute, so one look at the hub first decides whether they try at all: if it does
    not answer, only what is already in the local cache is used.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers(constants.ENDPOINT)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every library and transport has its own
        if is_memory(error):
            raise
        reason = first_line(error)
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE forbids fetching it" if before else "the hub cannot be reached"
        raise UserError(f"{what}: not on this machine, and {reason}; give a local copy with {knob}=PATH.") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def check_hub(name: str, file: str, knob: str = "model.checkpoint") -> None:
    """Raise `UserError` for a name on the hub ("hf-hub:OWNER/MODEL") whose ``file`` is not in the local cache and out of reach."""
    from huggingface_hub.errors import HFValidationError

    repository, _, revision = name.partition(":")[2].partition("@")
    try:
        reason = _out_of_reach(repository, (file,), revision or None)
    except HFValidationError as error:
        raise UserError(f"model.name={name}: no name on the hub ({first_line(error)}); write hf-hub:OWNER/MODEL.") from error
    if reason:
        raise UserError(
            f"model.name={name}: {file} of {repository} is not on this machine, and {reason}; give a plain model.name and a local "
            f"copy of the weights with {knob}=PATH."
        )


def check_published(what: str, repository: str | None, files: Sequence[str]) -> None:
    """Raise `UserError` for published weights of which no file is in the local cache and which are out of reach."""
    if repository and (reason := _out_of_reach(repository, files)):
        raise UserError(f"{what}: not on this machine, and {reason}; give a local copy with model.checkpoint=PATH.")


def _out_of_reach(repository: str, files: Sequence[str], revision: str | None = None) -> str:
    """Why none of ``files`` can be had; empty where one is in the local cache or the hub answers."""
    from huggingface_hub import constants, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files):
        return ""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids fetching it"
    return "" if _hub_answers(constants.ENDPOINT) else "the hub cannot be reached"


@cache
def _hub_answers(endpoint: str, seconds: float = 3.0) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:")[:200] if lines else type(error).__name__
