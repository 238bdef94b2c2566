"""The product of queries and keys that is never multiplied out: a tensor without numbers that remembers what is done to it.

A `Product` stands where a module that writes out softmax(s q k^T + b) v has its logits. It gathers s and b, knows the shape that
the module gave it last, and is told when softmax is taken; its product with v is the call of the op. Whatever else is done with it
gets the numbers, as if nobody had come between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fna.errors import UserError
from fna.surgery.outer import LOOKS, SUMS, Outer, resized
from fna.surgery.reads import PRODUCTS

HIDES = -1e4  # what stands in place of a logit that nobody is to see, or less


@dataclass(eq=False)
class Watch:
    """One run of a module: who multiplies with v, what it is called, what was done to logits that fna could not follow."""

    answer: Callable[[Logits, Tensor], Tensor]
    name: str
    strange: list[str]
    read: str = ""  # what read the weights themselves, beside their product with v
    over: bool = False


@dataclass(frozen=True, eq=False)
class Logits:
    """``scale`` q k^T + ``bias``, q ``[*lead, Nq, d]``, k ``[*lead, Nk, d]``; after ``softmax`` its weights.

    ``bias`` broadcasts to ``[*lead, Nq, Nk]``, which is `own`; ``shape`` is what the module sees, ``own`` row by row. ``down``
    ``[*lead, Nq, rows]`` and ``across`` ``[*lead, Nq, columns]`` are added too: what a query adds for the row and for the column of
    a key on a grid. ``dropout``: the rate at which weights are dropped.
    """

    q: Tensor
    k: Tensor
    shape: torch.Size
    dtype: torch.dtype
    scale: float = 1.0
    bias: Tensor | None = None
    down: Tensor | None = None
    across: Tensor | None = None
    softmax: bool = False
    dropout: float = 0.0

    @property
    def own(self) -> torch.Size:
        """The shape of the product itself."""
        return torch.Size((*self.q.shape[:-1], self.k.shape[-2]))

    def numbers(self) -> Tensor:
        """What the module would have had."""
        logits = self.scale * (self.q @ self.k.mT)
        added = self.added()
        logits = logits if added is None else logits + added
        logits = torch.dropout(logits.softmax(-1), self.dropout, True) if self.softmax else logits
        return logits.to(self.dtype).reshape(self.shape)

    def added(self) -> Tensor | None:
        """All that is added to the logits, in one tensor that broadcasts to `own`."""
        terms = [] if self.bias is None else [self.bias]
        if self.down is not None:
            terms.append(self.down.repeat_interleave(self.own[-1] // self.down.shape[-1], -1))
        if self.across is not None:
            rows = self.own[-1] // self.across.shape[-1]
            terms.append(self.across[..., None, :].expand(*self.across.shape[:-1], rows, -1).flatten(-2))
        return sum(terms[1:], terms[0]) if terms else None

    @property
    def apart(self) -> bool:
        """Whether all that is added is by the rows and columns of the grid that queries and keys are on."""
        if self.bias is not None or self.down is None or self.across is None:
            return False
        return self.own[-2] == self.own[-1] == self.down.shape[-1] * self.across.shape[-1]

    def plus(self, term: Tensor | float) -> Self | None:
        """With ``term``, which broadcasts to `shape`, added to each logit."""
        if self.softmax:
            return None
        if sides := self._sides(term):
            held: dict[str, Any] = {name: getattr(self, name) for name in sides}
            held |= {name: part if held[name] is None else held[name] + part for name, part in sides.items()}
            return replace(self, **held)
        term = torch.as_tensor(term, dtype=self.dtype, device=self.q.device)
        if term.dim() > len(self.shape) or torch.broadcast_shapes(term.shape, self.shape) != self.shape:
            return None
        term = term[(None,) * (len(self.shape) - term.dim())]
        if self.shape != self.own:
            term = term.expand(self.shape).reshape(self.own)
        return replace(self, bias=term if self.bias is None else self.bias + term)

    def _sides(self, term: Tensor | float) -> dict[str, Tensor]:
        """``term`` as an addition to `down`, to `across`, or to both; nothing where it is none."""
        if isinstance(term, Outer):
            fits = term.shape == self.shape and term.down.shape[-1] * term.across.shape[-1] == self.own[-1]
            found = {"down": term.down, "across": term.across} if fits else {}
        elif isinstance(term, Tensor) and term.dim() == len(self.shape) == len(self.own) + 2:
            *lead, y, x, rows, columns = self.shape
            grids = (y * x, rows * columns) == tuple(self.own[-2:]) and list(term.shape[:-2]) == [*lead, y, x]
            ends = tuple(term.shape[-2:]) if grids else ()
            found = {"down": term[..., 0]} if ends == (rows, 1) else {"across": term[..., 0, :]} if ends == (1, columns) else {}
        else:
            found = {}
        return {name: part.reshape(*self.own[:-1], -1) for name, part in found.items()}

    def times(self, factor: Tensor | float) -> Self | None:
        """Times a number, or a tensor that has one for each row of heads and images at most."""
        if self.softmax:
            return None
        held = {name: getattr(self, name) for name in ("bias", "down", "across")}
        added: dict[str, Any] = {name: None if part is None else part * factor for name, part in held.items()}
        if not isinstance(factor, Tensor):
            return replace(self, scale=self.scale * factor, **added)
        one = factor.dim() == 0 or (self.shape == self.own and factor.dim() <= len(self.own) and factor.shape[-2:] == (1, 1))
        if not one:
            return None
        return replace(self, q=(self.q * factor).to(self.q.dtype), **added)

    def over(self, factor: Tensor | float) -> Self | None:
        """Divided likewise."""
        return self.times(1 / factor)

    def hidden(self, where: Tensor, value: Tensor | float) -> Self | None:
        """With ``value``, which has to hide them, in place of the logits ``where`` that is True."""
        if float(value) > HIDES:
            return None
        term = torch.zeros(where.shape, dtype=self.dtype, device=where.device).masked_fill(where, float(value))
        return self.plus(term)

    def kept(self, where: Tensor, value: Tensor | float) -> Self | None:
        """The other way round: these logits where ``where`` is True, and ``value`` elsewhere."""
        return self.hidden(~where, value)

    def shaped(self, *shape: Any) -> Self:
        """In another shape, row by row."""
        return replace(self, shape=resized(self.shape, *shape))

    def opened(self, axis: int) -> Self:
        """With an axis of one more."""
        at = axis % (len(self.shape) + 1)
        return self.shaped(*self.shape[:at], 1, *self.shape[at:])

    def typed(self, kind: Any = None, *rest: Any, **named: Any) -> Self | None:
        """In another dtype: the op has its own way to keep digits."""
        kind = named.get("dtype", kind.dtype if isinstance(kind, Tensor) else kind)
        return replace(self, dtype=kind) if isinstance(kind, torch.dtype) else None

    def same(self, *args: Any, **named: Any) -> Self:
        """As it is."""
        return self

    def weights(self, dim: int | None = None, *args: Any, dtype: torch.dtype | None = None, **named: Any) -> Self | None:
        """Softmax over the keys."""
        last = dim is not None and dim % len(self.shape) == len(self.shape) - 1 and self.shape[-1] == self.own[-1]
        return replace(self, softmax=True, dtype=dtype or self.dtype) if last and not self.softmax else None

    def thinned(self, p: float = 0.5, training: bool = True, inplace: bool = False) -> Self | None:
        """Dropout of the weights."""
        return None if not self.softmax else replace(self, dropout=p if training else 0.0)


STEPS: dict[str, Callable[..., Logits | None]] = {
    **dict.fromkeys((*SUMS, "add_"), Logits.plus),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__", "mul_"), Logits.times),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "div_"), Logits.over),
    **dict.fromkeys(("view", "reshape"), Logits.shaped),
    **dict.fromkeys(("contiguous", "clone", "detach"), Logits.same),
    **dict.fromkeys(("to", "type", "type_as"), Logits.typed),
    "float": lambda logits: logits.typed(torch.float32),
    "unsqueeze": Logits.opened,
    **dict.fromkeys(("masked_fill", "masked_fill_"), Logits.hidden),
    "softmax": Logits.weights,
    "dropout": Logits.thinned,
}
_SHARE = ("view", "reshape", "contiguous", "detach", "unsqueeze")  # what they give may be the same memory
_EITHER = (*SUMS, "mul", "multiply", "__mul__", "__rmul__")  # a Product may be the second


class Product(Tensor):
    """Logits or weights without numbers, in a module that `Watch` looks at; made by `product`.

    ``writes`` counts what was written into the memory that it would share with others, ``known`` those that it knows of.
    """

    logits: Logits
    watch: Watch
    writes: list[int]
    known: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return _follow(func, args, kwargs)


def product(logits: Logits, watch: Watch, writes: list[int] | None = None) -> Product:
    """What the module has in hand: one number in memory, spread over the shape. ``writes``: as of what it shares memory with."""
    made = Tensor._make_subclass(Product, torch.empty((), dtype=logits.dtype, device=logits.q.device).expand(logits.shape))
    made.logits, made.watch, made.writes = logits, watch, [0] if writes is None else writes
    made.known = made.writes[0]
    return made


def multiplied(q: Tensor, k: Tensor, watch: Watch) -> Product | None:
    """In place of q ``[*lead, Nq, d]`` times k ``[*lead, d, Nk]``; None where that is no product of two such activations."""
    weight = isinstance(q, torch.nn.Parameter) or isinstance(k, torch.nn.Parameter)
    if weight or q.dim() != k.dim() or q.dim() < 3 or q.shape[:-2] != k.shape[:-2] or not q.is_floating_point():
        return None
    shape = torch.Size((*q.shape[:-1], k.shape[-1]))
    return product(Logits(q, k.mT, shape, torch.promote_types(q.dtype, k.dtype)), watch)


def _follow(func: Any, args: Any, kwargs: Any) -> Any:
    """What comes of ``func`` on arguments with a Product among them."""
    name = func.__name__
    first = next((arg for arg in args if isinstance(arg, Product)), None)
    watch = _find([*args, *kwargs.values()]).watch
    if watch.over:
        raise UserError(f"{watch.name} is changed by fna and has no attention weights to give; leave output_attentions out.")
    in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    stale = first is not None and first.known < first.writes[0]
    if first is not None and not stale and (found := _step(name, first, args, kwargs)) is not None:
        if not isinstance(found, Logits):
            return found
        if not in_place:
            return product(found, watch, first.writes if name in _SHARE else None)
        first.logits, first.known = found, first.known + 1
        first.writes[0] += 1
        return first
    if in_place or stale:
        raise UserError(f"{watch.name} changes its attention in place by {name}, which fna cannot follow; leave it out of layers=.")
    watch.strange.append(name)
    if first is not None and first.logits.softmax:
        watch.read = name
    return func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))


def _step(name: str, first: Product, args: Any, kwargs: Any) -> Logits | Tensor | None:
    """The next `Logits`, or what the op made of them and v; None for what is none of these."""
    logits, others = first.logits, [_numbers(arg) for arg in args if arg is not first]
    if name == "where" and len(args) == 3 and args[1] is first:
        return logits.kept(*others)
    if name in PRODUCTS and args[0] is first:
        v: Tensor = others[0]
        whole = logits.softmax and logits.shape == logits.own and v.shape[:-1] == logits.k.shape[:-1]
        return first.watch.answer(logits, v) if whole else None
    arithmetic = name in STEPS and STEPS[name] in (Logits.plus, Logits.times, Logits.over)
    if name not in STEPS or (arithmetic and kwargs) or not (args[0] is first or (name in _EITHER and len(args) == 2)):
        return None
    return STEPS[name](logits, *others, **tree_map(_numbers, kwargs))


def _find(args: list[Any]) -> Product:
    """The first Product in some arguments, lists of them included."""
    for arg in args:
        if isinstance(arg, Product):
            return arg
        if isinstance(arg, list | tuple) and any(isinstance(part, Product) for part in arg):
            return _find(list(arg))
    raise AssertionError


def _numbers(arg: Any) -> Any:
    return arg.logits.numbers() if isinstance(arg, Product) else arg
