"""Attention found by structure: a run of blocks of one kind, each of which calls torch's attention in one place.

What calls it is an `nn.MultiheadAttention`, or a module whose own code names ``scaled_dot_product_attention`` or writes attention
out by hand (`fna.surgery.reads`). No table of classes, no model library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.fx
from torch import nn

from fna.errors import UserError
from fna.surgery.reads import facts

INSIDE = "swap first and call torch.compile inside the with block"
RECIPE = "fna.swap(model, blocks=[...], seam=...), ten lines in docs/models_timm.md"


def find(model: nn.Module) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """The one run of blocks in ``model``, and the module that holds it. Raises `UserError`, which says what there is instead."""
    found = list(_stacks(model))
    if len(found) == 1:
        _tell_others(model, found[0][1])
        return found[0]
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise UserError(
            f"this {name} is a graph that torch.jit, torch.export or torch.fx made of a model: swap that model, and make the graph "
            "inside the with block."
        )
    if found:
        told = ", ".join(f"{len(blocks)} {type(blocks[0]).__name__} in {type(holder).__name__}" for holder, blocks in found[:6])
        raise UserError(
            f"{name} holds {len(found)} runs of blocks ({told}): say which with fna.swap(model, blocks=LIST), or hand over "
            "the module that holds but one (docs/models_timm.md)."
        )
    own = sorted({type(module).__name__ for module in model.modules() if named_attention(type(module))})
    if own:
        raise UserError(
            f"{name} holds no vision transformer that fna knows: its attention ({', '.join(own[:4])}) is not torch's own, as with "
            f"talking heads or linear attention, or lies in blocks of several kinds; use {RECIPE}."
        )
    raise UserError(
        f"{name} holds no vision transformer that fna knows, and no attention: there is nothing to swap; if some is computed in a "
        f"function outside its modules, by einsum or by flex_attention, use {RECIPE}."
    )


def _tell_others(model: nn.Module, blocks: tuple[nn.Module, ...]) -> None:
    """Warn of blocks of the same class that stand in no such run, as in DINOv2's chunks that are filled up with identities."""
    kind, own = type(blocks[0]), {module for block in blocks for module in block.modules()}
    others = [
        path
        for path, module in model.named_modules()
        if type(module) is kind and module not in own and len(attentions(module)) == 1
    ]
    others = [path for path in others if blocks[0] not in set(model.get_submodule(path).modules())]
    if others:
        warnings.warn(
            f"{len(blocks)} {kind.__name__} of this {type(model).__name__} stand in one list and can be changed; "
            f"{len(others)} more ({', '.join(others[:4])}) do not and stay as they are: to change these too, name all with "
            "fna.swap(model, blocks=LIST).",
            stacklevel=2,
        )


def has_one(model: nn.Module) -> bool:
    """Whether `find` has an answer: SAM's image encoder calls torch's attention beside a decoder that asks transformers' table."""
    return len(list(_stacks(model))) == 1


def check_sees(model: nn.Module, holder: nn.Module, blocks: tuple[nn.Module, ...]) -> None:
    """Raise `UserError` where the one run of ``blocks`` is the text tower of a model that sees images beside it, by other means."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()) or not _reads_texts(model, holder, blocks):
        return
    paths = {module: path for path, module in model.named_modules()}
    run = next(path for module, path in paths.items() if module is not holder and blocks == _listed(module))
    visual = next((f" ({path}: {type(part).__name__})" for part, path in paths.items() if path and _sees_alone(part, blocks)), "")
    raise UserError(
        f"{type(model).__name__} holds no vision transformer that fna knows: its image tower{visual} is none, and its only run of "
        f"blocks ({len(blocks)} {type(blocks[0]).__name__} in {run}) reads texts; to change that one, say so with "
        f"fna.swap(model, blocks=model.{run})."
    )


def _reads_texts(model: nn.Module, holder: nn.Module, blocks: tuple[nn.Module, ...]) -> bool:
    """Whether the nearest thing around a run that feeds it is a table of words, and no convolution as wide beside it."""
    inside = {module for block in blocks for module in block.modules()}
    path = next(path for path, module in model.named_modules() if module is holder)
    steps = path.split(".") if path else []
    for around in (model.get_submodule(".".join(steps[:count])) for count in range(len(steps), -1, -1)):
        fed = {name: module for name, module in around.named_modules() if module not in inside}
        words = {module.embedding_dim for name, module in fed.items() if isinstance(module, nn.Embedding) and "pos" not in name}
        cuts = [module for module in fed.values() if isinstance(module, nn.Conv2d)]
        if words or cuts:
            own = {module for module in around.children() if isinstance(module, nn.Conv2d)}
            return bool(words) and not any(cut.out_channels in words and (cut in own or cut.in_channels <= 4) for cut in cuts)
    return False


def _sees_alone(part: nn.Module, blocks: tuple[nn.Module, ...]) -> bool:
    """Whether convolutions are in it, and the run is not."""
    inside = set(part.modules())
    return not inside & set(blocks) and any(isinstance(module, nn.Conv2d) for module in inside)


def _listed(module: nn.Module) -> tuple[nn.Module, ...]:
    return tuple(module) if isinstance(module, nn.ModuleList | nn.Sequential) else ()


def place(block: nn.Module, number: int) -> str:
    """The path of the module in ``block`` that calls attention, "" for the block itself. Raises `UserError` unless there is one."""
    found = attentions(block)
    if len(found) == 1:
        return found[0]
    inside = f"{len(found)} of them ({', '.join(found)})" if found else "none"
    name = type(block).__name__
    raise UserError(f"block {number} ({name}) should call torch's attention in one place and has {inside}: use {RECIPE}.")


def attentions(block: nn.Module) -> list[str]:
    """Paths of the modules in ``block`` that call attention, the block itself as ""."""
    return [name for name, module in block.named_modules() if calls(module)]


def bare(block: nn.Module, others: Iterable[nn.Module]) -> bool:
    """Whether no attention is left in ``block``, which somebody pruned out of a run of it and ``others``."""
    alike = (attentions(other) for other in others if type(other) is type(block))
    return not attentions(block) and emptied(block, next((found[0] for found in alike if found), ""))


def emptied(block: nn.Module, place: str) -> bool:
    """Whether nothing with weights is where others of the block's class have their attention; "": nowhere in it. One that has no
    such place, as in hybrids with convolutions, is not emptied."""
    part = getattr(block, place.partition(".")[0], block) if place else block
    return part is None or not part.state_dict()


def calls(module: nn.Module) -> bool:
    """Whether this module itself calls torch's attention, or multiplies it out."""
    return isinstance(module, nn.MultiheadAttention) or facts(module).fused or facts(module).by_hand


def windows(blocks: Sequence[nn.Module]) -> dict[int, int]:
    """Block number -> tokens of a window, for blocks that say that they attend in windows (``window_size``)."""
    sides = {number: getattr(block, "window_size", 0) for number, block in enumerate(blocks)}
    sizes = {number: side[0] * side[1] if isinstance(side, tuple) else side**2 for number, side in sides.items()}
    return {number: size for number, size in sizes.items() if size}


def check_uncompiled(
    modules: Iterable[nn.Module], instead: str = "swap first and call torch.compile inside the with block"
) -> None:
    """Raise `UserError` where one of these was handed to torch.compile, as a copy or in place: its graph would not change."""
    if any(hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None for module in modules):
        raise UserError(f"this model is already compiled: {instead}.")


def _stacks(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[nn.Module, ...]]]:
    """Lists of modules of one class that each hold attention, not those inside another's blocks; some may be pruned, not the first:
    what begins with an identity is a chunk."""
    seen: set[nn.Module] = set()
    for module in model.modules():
        if module in seen:
            continue
        for child in (module, *module.children()):
            blocks = () if child in seen else _listed(child)
            if blocks and _is_run(blocks):
                yield module, blocks
                seen.update(child.modules())


def _is_run(blocks: tuple[nn.Module, ...]) -> bool:
    """Whether those of some blocks that hold attention are of one class and hold it once, the first and another among them."""
    found = {block: attentions(block) for block in blocks}
    attending = [block for block, paths in found.items() if paths]
    if len(attending) < min(2, len(blocks)) or len({type(block) for block in attending}) > 1 or not found[blocks[0]]:
        return False
    return all(len(paths) == 1 or (not paths and bare(block, blocks)) for block, paths in found.items())


def named_attention(cls: type) -> bool:
    """Whether a class is called attention: Attention, TalkingHeadAttn, XCA."""
    return "Att" in cls.__name__ or cls.__name__ == "XCA"
