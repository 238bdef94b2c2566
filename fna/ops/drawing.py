"""Drawing landmarks once a forward pass: how many, which tokens must be among them, and sharing them between layers."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from fna.errors import UserError
from fna.ops.contract import BadInput, Memo, Site, Unsupported, left_alone, recorded, whole
from fna.ops.kernels import for_onnx
from fna.ops.landmarks import Landmarks
from fna.values import MOST

Drawn = TypeVar("Drawn")


def check_landmarks(landmarks: object) -> None:
    """Raise `BadInput` unless ``landmarks`` is a count from 1 to `MOST` or a fraction between 0 and 1."""
    number = isinstance(landmarks, int | float) and not isinstance(landmarks, bool)
    if not number or not (0 < landmarks < 1 or (1 <= landmarks <= MOST and landmarks == int(landmarks))):  # type: ignore[operator, call-overload]
        raise BadInput(f"landmarks={landmarks}: give a count from 1 to {MOST}, or a fraction of the tokens between 0 and 1.")


def check_sampler(op: object, sampler: object, gives: type) -> None:
    """Raise `BadInput` for what is no sampler, and for one of the other kind: tokens where groups are needed, or the reverse."""
    called = sampler.__name__ if isinstance(sampler, type) else type(sampler).__name__
    if isinstance(sampler, type):
        raise BadInput(f"sampler {called} is a class: hand over an object of it, {called}().")
    given = getattr(sampler, "gives", None)
    if not isinstance(given, type):
        raise BadInput(
            f"sampler {called} does not say what it gives: add gives: ClassVar[type] = Landmarks to it (fna.ops.landmarks), or "
            "give a name of conf/sampler."
        )
    if given is not gives:
        named = {"Landmarks": "tokens (fps, random, uniform)", "Centroids": "groups of tokens (segment_means, kmeans)"}
        kinds = {"Landmarks": "tokens", "Centroids": "groups of tokens (attn=nystromformer takes it)"}
        other = kinds.get(given.__name__, given.__name__)
        raise BadInput(
            f"{type(op).__name__} cannot use sampler {called}, which gives {other}: choose one that gives {named[gives.__name__]}."
        )
    try:
        inspect.signature(sampler).bind("q", "k", "v", "site", "count", "keep", "drop")  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise BadInput(
            f"sampler {called} has to be called on q, k, v, site, count, keep, drop: give it __call__ with these."
        ) from None
    try:
        hash(sampler)
    except TypeError:
        raise BadInput(f"sampler {called} cannot be told from others (no hash): make it a @dataclass(frozen=True).") from None


def is_own(sampler: object) -> bool:
    """Whether a sampler, or one that it asks, is of code outside fna, whose landmarks are looked at."""
    if not str(type(sampler).__module__).startswith("fna."):
        return True
    return hasattr(sampler, "sampler") and is_own(sampler.sampler)


def check_drawn(sampler: object, found: object, k: Tensor, count: int, keep: Tensor | None, drop: Tensor | None) -> None:
    """Raise `BadInput` unless a sampler gave what it says, and of tokens ``count`` distinct ones for each row of ``k``.

    ``drop`` is held, since a token that may not be seen would be; ``keep``, which speaks before it, is a sampler's own business.
    """
    called = type(sampler).__name__
    gives: type = sampler.gives  # type: ignore[attr-defined]  # `check_sampler`
    if not isinstance(found, gives):
        raise BadInput(f"sampler {called} gave {type(found).__name__}: return {gives.__name__}, as its gives says.")
    if not isinstance(found, Landmarks):
        return
    shape = (k.shape[0], count)
    for name, part, kind in (("index", found.index, torch.int64), ("valid", found.valid, torch.bool)):
        if name == "valid" and part is None:
            continue
        if not isinstance(part, Tensor) or part.dtype != kind or part.shape != shape or part.device != k.device:
            got = f"{part.dtype} {list(part.shape)} on {part.device}" if isinstance(part, Tensor) else type(part).__name__
            raise BadInput(
                f"sampler {called} gave {name} {got}: return {str(kind).removeprefix('torch.')} {list(shape)} "
                f"[batch, count] on {k.device}."
            )
    if not recorded():  # where to ask for numbers is to hold them fast
        _check_tokens(called, found, k.shape[2], keep, drop)


def _check_tokens(called: str, found: Landmarks, tokens: int, keep: Tensor | None, drop: Tensor | None) -> None:
    """Raise `BadInput` for landmarks that are no tokens, come twice in a row, or are among those to leave out."""
    valid = torch.ones_like(found.index, dtype=torch.bool) if found.valid is None else found.valid
    foreign = found.index[(found.index < 0) | (found.index >= tokens)]
    if len(foreign):
        raise BadInput(f"sampler {called} gave index {int(foreign[0])}: there are tokens 0 to {tokens - 1}.")
    times = torch.zeros(len(valid), tokens, dtype=torch.int64, device=valid.device).scatter_add_(1, found.index, valid.long())
    if bool((times > 1).any()):
        twice = int((times > 1).nonzero()[0, 1])
        raise BadInput(f"sampler {called} gave token {twice} twice in a row: landmarks are distinct; pad with valid=False.")
    hidden = torch.zeros_like(times, dtype=torch.bool) if drop is None else drop.expand_as(times)
    hidden = hidden if keep is None else hidden & ~keep.expand_as(times)
    if bool((hidden & (times > 0)).any()):
        one = int((hidden & (times > 0)).nonzero()[0, 1])
        raise BadInput(f"sampler {called} gave token {one}, which is in drop: leave those out, or mark them with valid=False.")


def count_landmarks(landmarks: int | float, tokens: int) -> int:
    """How many of ``tokens`` a count or a fraction (at least one) means. More than there are: all, with a warning."""
    if landmarks < 1:
        return max(1, round(landmarks * tokens))
    if landmarks > tokens:
        taken = "there all of them are taken, which few methods turn into exact attention (attn=exact is)."
        # how many tokens is left out: a reducer makes that another sentence in every block
        warnings.warn(f"landmarks={landmarks} is more than a block has tokens: {taken}", stacklevel=2)
    return min(int(landmarks), tokens)


def draw(
    sampler: Callable[..., Drawn], q: Tensor, k: Tensor, v: Tensor, site: Site, landmarks: int | float, resample_every: int
) -> Drawn:
    """What ``sampler`` gives for this forward pass, drawn in the first block that asks and shared through ``site.memo``.

    Prefix and suffix tokens are kept as landmarks, tokens that may not be seen are dropped. ``resample_every``: 0 draws once, r
    draws anew when the last draw is r layers old. Kept under the version of the tokens, so merging makes a new draw; a block whose
    windows are not as many as those of the one before draws its own.
    """
    if torch.jit.is_tracing() and for_onnx():
        raise Unsupported("torch.onnx.export(..., dynamo=False) cannot write landmarks down: leave dynamo at True.")
    tokens = whole(k.shape[-2])
    count = count_landmarks(landmarks, tokens)
    found = drawn_before(sampler, k.shape[0], tokens, site, count, resample_every)
    if found is None:
        with site.clock("sampling"):
            keep, drop = _kept(site, k), None if site.keys is None else ~site.keys
            if is_own(sampler):
                found = _of_own(sampler, q, k, v, site, count, keep, drop)
                check_drawn(sampler, found, k, count, keep, drop)
            else:
                found = sampler(q, k, v, site, count, keep, drop)
        site.memo[_key(sampler, tokens, site, count)] = (site.layer, found, k.shape[0])
    return found


def _of_own(sampler: Callable[..., Drawn], q: Tensor, k: Tensor, v: Tensor, site: Site, *given: object) -> Drawn:
    """What somebody's own sampler gives; an exception is passed on with a note that names it, its file and line.

    Raises `Unsupported` where it changes q, k or v in place.
    """
    if recorded():  # and nobody follows notes
        return sampler(q, k, v, site, *given)
    unchanged = left_alone(_own_part(sampler), q, k, v, site)
    try:
        found = sampler(q, k, v, site, *given)
    except Exception as error:
        if not isinstance(error, UserError):
            own = _own_part(sampler)
            frames = traceback.extract_tb(error.__traceback__)
            code = getattr(type(own).__call__, "__code__", None)
            at = [frame for frame in frames if code is not None and frame.filename == code.co_filename] or frames
            error.add_note(f"raised by sampler {type(own).__module__}.{type(own).__qualname__}, {at[-1].filename}:{at[-1].lineno}")
        raise
    if not unchanged():
        raise Unsupported(
            f"sampler {type(_own_part(sampler)).__qualname__} changes q, k or v in place, which the attention reads too: work on a "
            "copy (q.clone()), or with operations whose names do not end in _."
        )
    return found


def _own_part(sampler: object) -> object:
    """The sampler of code outside fna, in one that asks it."""
    outside = not str(type(sampler).__module__).startswith("fna.")
    return sampler if outside else _own_part(sampler.sampler)  # type: ignore[attr-defined]  # `is_own`


def drawn_before(
    sampler: Callable[..., Drawn], images: int, tokens: int, site: Site, count: int, resample_every: int
) -> Drawn | None:
    """What an earlier block of this pass drew for as many images and tokens, where it serves here too; else None."""
    layer, found, of = site.memo.get(_key(sampler, tokens, site, count), (site.layer, None, 0))
    return None if of != images or (resample_every and site.layer - layer >= resample_every) else found


def hangs_on_pass(memo: Memo) -> bool:
    """Whether a block that is called alone would find something else than what is in ``memo``: all but landmarks of samplers that
    give every block the same, whatever they see (``fixed``)."""
    return any(key[0] != "landmarks" or not getattr(key[1], "fixed", False) for key in memo)


def _key(sampler: Callable[..., Drawn], tokens: int, site: Site, count: int) -> tuple[object, ...]:
    return ("landmarks", sampler, site.tokens.version, tokens, count)


def _kept(site: Site, k: Tensor) -> Tensor | None:
    """Prefix and suffix tokens that may be seen: bool ``[N]`` or ``[B, N]``, None where there are none."""
    tokens = whole(k.shape[-2])
    if site.tokens.prefix + site.tokens.suffix == 0:
        return None
    position = torch.arange(tokens, device=k.device)
    ends = (position < site.tokens.prefix) | (position >= tokens - site.tokens.suffix)
    return ends if site.keys is None else ends & site.keys
