"""What every attention promises: one call on q, k, v and the site where it happens.

Axes, everywhere in this folder: ``B`` batch, ``H`` heads, ``N`` tokens, ``M`` landmarks, ``d`` head width, ``D`` model width.

An attention is ``op(q, k, v, site) -> out`` with q ``[B, H, Nq, d]``, k and v ``[B, H, Nk, d]``, out ``[B, H, Nq, d]`` in q's
dtype. It must honour every field that the site sets, or refuse it by name (`refuse`); it keeps no tensors on itself: what has
to outlive one layer goes into ``site.memo``, which lives for one forward pass. An op that says ``grouped`` (a ClassVar, True) is
handed k and v with the fewer heads of a grouped model; for the others they are repeated. A batch of 0 gives one of 0.

A class may define ``absorbed(x, around, site) -> out or None`` beside its ``__call__``: the same from the tokens before their
projections (`Projections`). One that brings a call of its own brings its own of both: what it inherits is another method's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_functorch_wrapped_tensor
from torch.utils.weak import WeakIdKeyDictionary

from fna.errors import UserError
from fna.ops.bias import PairBias

Clock = Callable[[str], AbstractContextManager[Any]]
Memo = dict[Any, Any]
# What was seen to leave its input as it was where torch counts no changes: the op -> (block, shape of q) of each call.
_clean: WeakIdKeyDictionary = WeakIdKeyDictionary()


def no_clock(stage: str) -> AbstractContextManager[Any]:
    """The clock of a run that is not being timed."""
    return nullcontext()


class BadInput(UserError, ValueError):
    """What no attention, sampler or inverse can use; also a `ValueError`, as code on numbers expects."""


class Unsupported(UserError, ValueError):
    """An attention was handed a site field that it cannot honour."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Which tokens a sequence holds: ``[prefix | grid | suffix]`` until something merges or drops them.

    ``grid`` is (rows, columns) of the patch tokens, None where there is no grid any more. Merging or dropping makes a new
    ``version``; ``source`` int64 ``[B, N0]`` then says in which row each original token went, ``sizes`` ``[B, N]`` how many
    originals a token stands for, ``bias`` ``[B, N]``, finite, what is added to its logits as a key (log sizes). ``whole``: the
    grid that the results are wanted on, where a smaller input has made another.
    """

    prefix: int = 1
    suffix: int = 0
    grid: tuple[int, int] | None = None
    version: int = 0
    source: Tensor | None = None
    sizes: Tensor | None = None
    bias: Tensor | None = None
    whole: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """The place in a running model where an attention is called.

    ``keys`` bool ``[B, Nk]``: which keys may be seen. ``key_bias`` float ``[B, Nk]``: added to every logit of that key (log
    sizes of merged tokens). ``causal``: query i sees keys up to ``i + q_offset``. ``dense``: any additive mask that broadcasts to
    ``[B, H, Nq, Nk]``, or relative positions, which can be asked for a few rows and columns (`fna.ops.bias`). ``hidden``
    ``[B, N, D]``: the residual stream entering the block. ``memo``: emptied for every forward pass.
    """

    scale: float
    keys: Tensor | None = None
    key_bias: Tensor | None = None
    causal: bool = False
    q_offset: int = 0
    dense: Tensor | PairBias | None = None
    layer: int = 0
    depth: int = 1
    tokens: Tokens = field(default_factory=Tokens)
    hidden: Tensor | None = None
    memo: Memo = field(default_factory=dict)
    clock: Clock = no_clock


@dataclass(frozen=True, eq=False)
class Projections:
    """The linear layers round an attention. ``inner`` ``[3 H d, D]`` makes q, k and v, one after the other, of all heads; ``outer``
    ``[D, H d]`` takes what all heads answer. Biases ``[3 H d]`` and ``[D]``, or None.
    """

    heads: int
    inner: Tensor
    inner_bias: Tensor | None
    outer: Tensor
    outer_bias: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All four."""
        return self.inner, self.inner_bias, self.outer, self.outer_bias


@runtime_checkable
class Attention(Protocol):
    """One call for every method. Implementations are frozen dataclasses whose fields are their YAML keys."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor: ...


def absorbing(op: object) -> Callable[[Tensor, Projections, Site], Tensor | None] | None:
    """``absorbed`` of an op, where the class whose ``__call__`` it has defines it too; else None, as where somebody put another
    call into that class."""
    maker = next(cls for cls in (*type(op).__mro__, object) if "__call__" in vars(cls) or cls is object)
    replaced = getattr(vars(maker).get("__call__"), "__module__", maker.__module__) != maker.__module__
    return op.absorbed if "absorbed" in vars(maker) and not replaced else None  # type: ignore[attr-defined]


def whole(size: int) -> int:
    """A tensor's size as a number. While `torch.jit.trace` records, sizes are tensors: no key of a memo, no count to draw."""
    if not torch.jit.is_tracing():
        return size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that the count is fixed is meant
        return int(size)


def recorded() -> bool:
    """Whether this call is being written down, by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def unread(x: Tensor) -> bool:
    """Whether no choice may hang on the numbers of ``x``: while this call is written down, without any (meta), under vmap."""
    return recorded() or x.is_meta or is_functorch_wrapped_tensor(x)


def not_traced(what: str, *read: Tensor) -> None:
    """Raise `Unsupported` while `torch.jit.trace` records: how many rows it takes would be that of the example ever after; and
    where the numbers of ``read``, on which it depends, cannot be looked at: on the meta device and under `torch.vmap`."""
    if any(x.is_meta or is_batchedtensor(x) for x in read):
        where = "the meta device has none" if read[0].is_meta else "torch.vmap hides them: call it on the whole batch"
        raise Unsupported(f"{what} depends on numbers of the images, and {where}, or leave it out.")
    if torch.jit.is_tracing():
        raise Unsupported(f"{what} depends on the images, which torch.jit.trace cannot record: use torch.compile, or leave it out.")


def refuse(op: object, site: Site, *fields: str) -> None:
    """Raise `Unsupported` if the site sets one of the named fields.

    ``fields`` are what the op cannot honour: "keys", "key_bias", "causal", "dense". The message names the op, the field, the
    layer and what can honour it.
    """
    for name in fields:
        value = getattr(site, name)
        if value is not None and value is not False:
            positions = name == "dense" and not isinstance(value, Tensor)
            what, able = (
                ("relative positions, 'dense'", "exact, fna, fna_plus, fna_local or window")
                if positions
                else (f"'{name}'", "exact")
            )
            raise Unsupported(f"{type(op).__name__} cannot honour {what} (block {site.layer}): use attn={able} there, which can.")


def pair_bias(op: object, site: Site) -> PairBias | None:
    """The relative positions of the site, for an op that honours these; a mask in their place is refused."""
    if isinstance(site.dense, Tensor):
        refuse(op, site, "dense")
        raise AssertionError  # a mask is there, so it was refused
    return site.dense


def same_tokens(op: object, q: Tensor, k: Tensor, site: Site) -> None:
    """Raise `Unsupported` unless queries and keys are the same tokens (self-attention over a whole sequence)."""
    if q.shape[-2] != k.shape[-2]:
        raise Unsupported(
            f"{type(op).__name__} needs as many queries as keys (block {site.layer}: {q.shape[-2]} queries, {k.shape[-2]} keys): "
            "use attn=exact there, which does not."
        )


def called(op: Attention, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """What ``op`` gives, if it is what an attention returns (`returned`) and q, k, v are as they were.

    An exception is passed on with a note that names op and block. Raises `Unsupported` where q, k or v were changed in place. In
    `torch.inference_mode` torch does not count changes: there the first call of somebody's own op in a block, and on each shape of
    q, is held against copies.
    """
    if recorded():  # and nobody follows neither counters nor notes
        return returned(op, op(q, k, v, site), q, v)
    unchanged = left_alone(op, q, k, v, site)
    try:
        out = op(q, k, v, site)
    except Exception as error:
        if not isinstance(error, UserError):
            own = type(_innermost(op))
            sampled = any(note.startswith("raised by sampler") for note in getattr(error, "__notes__", ()))
            does = "called" if sampled else "raised"
            error.add_note(f"{does} by {own.__module__}.{own.__qualname__} in block {site.layer}")
        raise
    if not unchanged():
        raise Unsupported(
            f"{type(_innermost(op)).__name__} changes q, k or v in place (block {site.layer}), which others read too: work on a "
            "copy (q.clone()), or with operations whose names do not end in _."
        )
    return returned(op, out, q, v)


def left_alone(op: object, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Callable[[], bool]:
    """What tells, once ``op`` ran (a method or a sampler), whether q, k and v are as they were before."""
    before, copies = _changes(q, k, v), _copies(op, q, k, v, site)
    return lambda: _changes(q, k, v) == before and _unchanged(op, copies, site)


def _innermost(op: object) -> object:
    """The method itself, of what masks or watches one."""
    inner = getattr(op, "op", None)
    return _innermost(inner) if isinstance(inner, Attention) else op


def _changes(*tensors: Tensor) -> list[int]:
    """How often each was changed in place so far; those that do not count it are left out."""
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _copies(op: object, q: Tensor, k: Tensor, v: Tensor, site: Site) -> list[tuple[Tensor, Tensor]]:
    """Each tensor whose changes torch does not count, and its copy; none for fna's own ops and for calls like one seen before."""
    method = _innermost(op)
    if not q.is_inference() or str(getattr(method, "__module__", "")).startswith("fna."):
        return []
    if (site.layer, q.shape) in _seen_clean(method):
        return []
    return [(tensor, tensor.clone()) for tensor in (q, k, v)]


def _seen_clean(method: object) -> set[tuple[int, torch.Size]]:
    """Where a method was seen to leave its input as it was; of one that cannot be kept by reference, nothing is remembered."""
    try:
        return _clean.setdefault(method, set())
    except TypeError:
        return set()


def _unchanged(op: object, copies: list[tuple[Tensor, Tensor]], site: Site) -> bool:
    """Whether each tensor still equals its copy, bit for bit but for NaN; noted of the op, so that timed calls are not copied."""
    if not all(torch.allclose(tensor, copy, rtol=0, atol=0, equal_nan=True) for tensor, copy in copies):
        return False
    if copies:
        _seen_clean(_innermost(op)).add((site.layer, copies[0][0].shape))
    return True


def returned(op: object, out: object, q: Tensor, v: Tensor) -> Tensor:
    """``out`` if it is what an attention returns: a tensor of the queries' shape ``[B, H, Nq]``, of values, in their dtype.

    Raises `Unsupported` with the op's name. Under autocast any dtype will do.
    """
    if not isinstance(out, Tensor):
        raise Unsupported(f"{type(op).__name__} returned {type(out).__name__}, no tensor; return one of the shape of the queries.")
    if recorded():  # where to ask for a shape is to hold it fast
        return out
    if out.shape != (*q.shape[:-1], v.shape[-1]):
        raise Unsupported(f"{type(op).__name__} returned shape {tuple(out.shape)} for queries of shape {tuple(q.shape)}.")
    if out.dtype != v.dtype and not autocasts(q):
        raise Unsupported(f"{type(op).__name__} returned {out.dtype} for queries of {q.dtype}; return theirs.")
    return out


def autocasts(like: Tensor) -> bool:
    """Whether autocast is on where ``like`` lies; some devices, such as meta, have none, and torch raises when asked."""
    kind = like.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def probe(op: Attention, site: Site, *, heads: int = 2, tokens: int = 12, width: int = 8) -> None:
    """Call ``op`` once on a tiny random input, so that a refusal comes before any weights are loaded.

    ``site`` carries what the real run will set; only its flags and layer matter here.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, tokens, width, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what an op says about 12 tokens ("fewer than landmarks") is of no interest
        out = called(op, q, k, v, site)
    if not bool(out.isfinite().all()):
        raise Unsupported(f"{type(op).__name__} returned NaN or infinity for {tokens} tokens of normal numbers; mend that.")
