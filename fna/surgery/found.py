"""Towers of transformers by their structure: stacks of blocks whose attention looks its function up in the library's table, or is
written out.

Nothing here imports transformers: what a class does stands in its code (`fna.surgery.reads`), and what is a model of its own in the
name of a base class. ``x`` of a stack is ``[B, N, D]``, of some ``[B, rows, columns, D]`` or ``[N, D]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fna.surgery.reads import facts
from fna.surgery.stacks import emptied

_LISTS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True, eq=False)
class Stack:
    """Blocks of one class under one module. ``path`` is where that one is, from the model handed over ("" is the model itself).

    ``calls`` holds for each block the modules in it that ask the table, or that have their attention written out ``by_hand``, none
    of a pruned one:
    blocks of such a stack need not be of one class. ``vision``: the model of its own that they are a part of says that it looks
    at images or videos. ``model`` is the nearest one that cuts them into ``patches`` too (None where no
    convolution does), ``flat`` whether all blocks stand in one list.
    """

    path: str
    blocks: tuple[nn.Module, ...]
    calls: tuple[tuple[nn.Module, ...], ...]
    model: nn.Module
    patches: nn.Module | None
    vision: bool
    flat: bool
    by_hand: bool

    @property
    def causal(self) -> bool:
        """Whether a token sees only what comes before it."""
        return all(getattr(call, "is_causal", False) for calls in self.calls for call in calls)

    @property
    def plain(self) -> bool:
        """Whether each block has one attention: those with more look at other tokens than their own too."""
        return all(len(calls) < 2 for calls in self.calls)

    @property
    def attending(self) -> tuple[nn.Module, ...]:
        """The blocks that have attention; from others somebody pruned it."""
        return tuple(block for block, calls in zip(self.blocks, self.calls, strict=True) if calls)

    @property
    def made_of(self) -> str:
        """The class of its blocks."""
        return type(self.attending[0]).__name__

    @property
    def windowed(self) -> dict[int, int]:
        """Blocks that see a window of the image at a time, as they or the settings say, and its tokens (0: not said)."""
        whole = getattr(self.config, "fullatt_block_indexes", None)
        if whole is not None:
            side = getattr(self.config, "window_size", 0) // (getattr(self.config, "patch_size", 0) or 1)
            return {number: side * side for number in range(len(self.blocks)) if number not in whole}
        parts = zip(self.blocks, self.calls, strict=True)
        sizes = {number: _window(block, *calls) for number, (block, calls) in enumerate(parts)}
        return {number: size for number, size in sizes.items() if size is not None}

    @property
    def config(self) -> Any:
        """The settings that the attention of its first block follows, or its model."""
        return getattr(next(filter(None, self.calls))[0], "config", getattr(self.model, "config", None))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of patches at the size that the model was made for, as its settings say; None where they don't."""
        size, patch = (pair(getattr(self.config, name, None)) for name in ("image_size", "patch_size"))
        return None if size is None or patch is None or self.patches is None else (size[0] // patch[0], size[1] // patch[1])


def find_stacks(model: nn.Module) -> list[Stack]:
    """All stacks inside ``model`` whose attention asks the table or is written out, in the order in which they are built."""
    found: dict[tuple[str, type | None], dict[str, list[str]]] = {}
    for path, module in model.named_modules():
        by_hand = facts(module).by_hand and any(_is_model(_at(model, inside)) for inside in _above(path))
        block = _block(model, path) if by_hand or facts(module).table else None
        if block is not None:
            kind = None if by_hand else type(_at(model, block))
            found.setdefault((_owner(model, block), kind), {}).setdefault(block, []).append(path)
    return [_stack(model, owner, calls, kind is None) for (owner, kind), calls in found.items()]


def pair(side: Any) -> tuple[int, int] | None:
    """(rows, columns) of a side or of two; None for anything else, such as three of a video."""
    sides = (side, side) if isinstance(side, int) else side
    return (int(sides[0]), int(sides[1])) if isinstance(sides, tuple | list) and len(sides) == 2 else None


def _window(*parts: nn.Module) -> int | None:
    """The tokens of a window, where a block or its attention says that it sees one: a size above 0, ``window`` or not
    ``global_attention``; 0 for one of unknown size, None for none."""
    said = [vars(part) for part in parts]
    if any(part.get("use_mask_unit_attn") is False for part in said):  # Hiera's blocks that see it all have a size of windows too
        return None
    sizes = [size[0] * size[1] for part in said if (size := pair(part.get("window_size"))) is not None and min(size) > 0]
    marked = any(part.get("window") is True or part.get("global_attention") is False for part in said)
    return sizes[0] if sizes else 0 if marked else None


def _stack(model: nn.Module, owner: str, calls: dict[str, list[str]], by_hand: bool) -> Stack:
    if by_hand and any(len(inside) > 1 for inside in calls.values()):  # of time and of space: each is a block
        calls = {path: [path] for inside in calls.values() for path in inside}
    around = [part for path in (owner, *_above(owner)) if _is_model(part := _at(model, path))] or [model]
    vision = sees_images(around[0])
    home, patches = _home(around) if vision else (around[0], None)
    lists = {path.rpartition(".")[0] for path in calls}
    flat = len(lists) == 1
    if flat and vision:
        calls = _with_bare(model, next(iter(lists)), calls)
    blocks = tuple(_at(model, path) for path in calls)
    attentions = tuple(tuple(_at(model, path) for path in inside) for inside in calls.values())
    return Stack(owner, blocks, attentions, home, patches if flat else None, vision, flat, by_hand)


def _with_bare(model: nn.Module, around: str, calls: dict[str, list[str]]) -> dict[str, list[str]]:
    """``calls`` of the blocks in the list at ``around``, with the pruned ones between them, which call nothing: all keep their
    numbers."""
    items = _at(model, around)
    if not isinstance(items, _LISTS):
        return calls
    places = {type(_at(model, path)): inside[0].removeprefix(path)[1:] for path, inside in calls.items()}
    paths = {f"{around}.{name}": item for name, item in items._modules.items() if item is not None}
    known = all(path in calls or emptied(item, places.get(type(item), "")) for path, item in paths.items())
    return {path: calls.get(path, []) for path in paths} if known else calls


def sees_images(model: nn.Module) -> bool:
    """Whether a model of transformers says that images or videos go in."""
    said = getattr(model, "input_modalities", ())
    return bool({"image", "video"} & set((said,) if isinstance(said, str) else said or ()))


def _at(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path)


def _above(path: str) -> Iterator[str]:
    """The paths of what ``path`` lies in, nearest first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _block(model: nn.Module, path: str) -> str | None:
    """The path of the nearest item of a list that is or holds the module at ``path``; None where it is in no list."""
    return next((inside for inside in (path, *_above(path)) if inside and _in_list(model, inside)), None)


def _in_list(model: nn.Module, path: str) -> bool:
    return isinstance(_at(model, path.rpartition(".")[0]), _LISTS)


def _owner(model: nn.Module, block: str) -> str:
    """The path of what holds the outermost list around a block, inside the nearest model of its own."""
    owner = ""
    for inside in _above(block):
        if isinstance(_at(model, inside), _LISTS):
            owner = inside.rpartition(".")[0]
        elif _is_model(_at(model, inside)):
            break
    return owner


def _home(around: list[nn.Module]) -> tuple[nn.Module, nn.Module | None]:
    """The nearest of some models that cuts images into patches, and what cuts; else the nearest one."""
    cut = ((part, patches) for part in around if (patches := _patches(part)) is not None)
    return next(cut, (around[0], None))


def _is_model(module: nn.Module) -> bool:
    return any(base.__name__ == "PreTrainedModel" for base in type(module).__mro__)


def _patches(model: nn.Module) -> nn.Module | None:
    """The convolution whose steps do not overlap, on channels of pixels: its output ``[B, D, rows, columns]`` is the grid."""
    channels = getattr(getattr(model, "config", None), "num_channels", 3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels == channels and module.stride == module.kernel_size:
            return module
    return None
