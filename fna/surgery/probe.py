"""Looking into a running model: what is asked for of every block, in one pass, without N x N anywhere.

    with recording(model, print, streams=("entering", "leaving"), calls=("cls_gives",)):
        model(images)

Fused attention stays on; of the attention weights only the rows that are needed are computed again, a slab at a time. Works
for every family that `fna.surgery.blocks` describes, and on a model whose attention is already changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fna.ops.contract import Attention, Memo, Site, Unsupported
from fna.ops.exact import Exact
from fna.ops.rows import attention_chunks, cls_attention
from fna.ops.spread import changed, spread
from fna.surgery.blocks import Tower, find_tower
from fna.surgery.extras import put_back, take_out
from fna.surgery.lookahead import Masking, look_ahead
from fna.surgery.swap import Swap, current_swap, swap_tower

Call = Callable[[Tensor, Tensor, Tensor, Site], Tensor]
Stream = Callable[[Tensor], Tensor]
Records = dict[str, Tensor]
SOUGHT = "sought"  # the memo's name for what `recording` seeks: apart from what a mask in force has found


def norms(x: Tensor) -> Tensor:
    """L2 norm of every token of ``[B, N, D]`` -> ``[B, N]``, at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).norm(dim=-1)


def peaks(x: Tensor) -> Tensor:
    """Largest size of every channel of ``[B, N, D]`` over the tokens -> ``[B, D]``."""
    return x.abs().amax(1)


def cls_gives(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """What CLS gives to each token, mean over heads -> ``[B, N]``."""
    return cls_attention(q, k, site)


def cls_gets(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """What CLS gets from each token, mean over heads -> ``[B, N]``. Needs every row's normaliser: O(N^2) work, O(N) memory."""
    return torch.cat([weights[..., 0].mean(1) for _, weights in attention_chunks(q, k, site)], dim=1)


def values(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Norm of each token's value over all heads -> ``[B, N]``."""
    return norms(v.transpose(1, 2).flatten(2))


# name -> (where on the residual stream, what to keep of it)
STREAMS: dict[str, tuple[str, Stream]] = {
    "entering": ("entering", norms),
    "attended": ("attended", norms),
    "leaving": ("leaving", norms),
    "peaks": ("leaving", peaks),
}
CALLS: dict[str, Call] = {"cls_gives": cls_gives, "cls_gets": cls_gets, "values": values}


@dataclass(frozen=True, eq=False)
class Recorded:
    """``op`` unchanged, with what ``calls`` make of q, k and v put into the memo."""

    op: Attention
    calls: Mapping[str, Call]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """As ``op``."""
        if self.calls:
            whole = as_at_first(q, k, v, site)
            for name, call in self.calls.items():
                site.memo["seen", name, site.layer] = call(*whole)
        return self.op(q, k, v, site)


def as_at_first(q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor, Site]:
    """A call over the tokens that the image had at first: those that were merged stand there as often as they count."""
    tokens = site.tokens
    if not changed(tokens):
        return q, k, v, site
    if tokens.source is None:
        raise Unsupported(f"block {site.layer}: a smaller image has other tokens, which cannot be looked at one by one.")

    def over(x: Tensor | None) -> Tensor | None:
        return None if x is None else spread(x, tokens)

    q, k, v = (spread(x.transpose(1, 2), tokens).transpose(1, 2) for x in (q, k, v))
    sizes = None if tokens.sizes is None else tokens.sizes.log()
    bias = site.key_bias if sizes is None else -sizes if site.key_bias is None else site.key_bias - sizes
    first = replace(tokens, version=0, source=None, sizes=None, bias=None)
    return q, k, v, replace(site, tokens=first, keys=over(site.keys), key_bias=over(bias), hidden=over(site.hidden))


@contextmanager
def recording(
    model: nn.Module,
    then: Callable[[Records], None],
    *,
    streams: Mapping[str, tuple[str, Stream]] | tuple[str, ...] = (),
    calls: Mapping[str, Call] | tuple[str, ...] = (),
    plan: Mapping[int, Attention] | None = None,
    seek: Masking | None = None,
) -> Iterator[Swap]:
    """After every pass through ``model``, hand ``then`` the records: name -> ``[B, blocks, ...]``, on the model's device.

    ``streams``: names of `STREAMS`, or name -> ("entering", "attended" or "leaving", f of the residual stream ``[B, N, D]``).
    ``calls``: names of `CALLS`, or name -> f(q, k, v, site). ``plan``: ops to record under (number -> op); the others are exact.
    ``seek``: a masking strategy whose tokens are found and left alone: records "massive" and, if it looks for them, "sinks" bool
    ``[B, N]`` and their "order". Ops in force do not see these, only what their own mask finds. A change in force on the model
    (``fna.swap``, masks included) stays in force and is recorded; ``plan`` is then refused.
    """
    streams = {name: STREAMS[name] for name in streams} if isinstance(streams, tuple) else streams
    calls = {name: CALLS[name] for name in calls} if isinstance(calls, tuple) else calls
    outer = current_swap(model)
    if outer is not None and plan is not None:
        raise ValueError("this model is changed already: record that change, without a plan, or restore it first.")
    ops = plan or {} if outer is None else outer.plan
    tower = find_tower(model)
    extras = [] if outer is None else take_out(outer)
    try:
        depth = len(tower.blocks)
        recorded: Mapping[int, Attention] = {layer: Recorded(ops.get(layer, Exact()), calls) for layer in range(depth)}
        if seek is not None:
            recorded = seek.ops(recorded, (), depth, SOUGHT)
        with swap_tower(model, recorded, on_end=lambda memo: then(collect(memo))) as swap:
            _watch_streams(swap, tower, streams)
            put_back(swap, extras)
            if seek is not None and seek.looks_ahead((), depth):
                look_ahead(swap, partial(seek.find, name=SOUGHT), seek.window(depth), ())
            yield swap
    finally:
        if outer is not None:
            outer.install()
            put_back(outer, extras)


def collect(memo: Memo) -> Records:
    """The records of one pass, blocks in order along axis 1, and the tokens that were found."""
    kept: dict[str, dict[int, Tensor]] = {}
    for key, value in memo.items():
        if isinstance(key, tuple) and key[0] == "seen":
            kept.setdefault(key[1], {})[key[2]] = value
    records = {name: torch.stack([blocks[layer] for layer in sorted(blocks)], dim=1) for name, blocks in kept.items()}
    return records | {key[1]: value for key, value in memo.items() if isinstance(key, tuple) and key[0] == SOUGHT}


def _watch_streams(swap: Swap, tower: Tower, streams: Mapping[str, tuple[str, Stream]]) -> None:
    """Hooks in every block; `Swap.restore` takes them away."""
    for layer, (block, spec) in enumerate(zip(tower.blocks, tower.specs, strict=True)):
        middle = block.get_submodule(spec.norm2 or spec.mlp)
        for name, (place, keep) in streams.items():
            note = partial(_note, swap, ("seen", name, layer), keep)
            if place == "leaving":
                # Before the hook that ends the pass: the memo is still there.
                hook = block.register_forward_hook(partial(_of_output, note), prepend=True)
            else:
                hook = (block if place == "entering" else middle).register_forward_pre_hook(
                    partial(_of_input, note), with_kwargs=True
                )
            swap._hooks.append(hook)


def _note(swap: Swap, key: tuple[str, str, int], keep: Stream, x: Tensor) -> None:
    frame = swap.frame
    if not frame.aside:  # a look-ahead is not the pass
        frame.memo[key] = keep(swap.spread(x if swap.tower.batch_first else x.transpose(0, 1)))


def _of_input(note: Callable[[Tensor], None], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    note(args[0] if args else next(iter(kwargs.values())))


def _of_output(note: Callable[[Tensor], None], module: nn.Module, args: Any, output: Any) -> None:
    note(output[0] if isinstance(output, tuple) else output)
