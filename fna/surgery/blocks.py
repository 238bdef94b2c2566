"""Where a model keeps its transformer: the tower and its blocks.

A table row a class for timm, open_clip and torchvision; transformers by the stacks whose attention asks its table
(`fna.surgery.found`); the rest by what calls torch's attention (`fna.surgery.stacks`). Nothing here imports a model library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from fna.errors import UserError
from fna.surgery import stacks
from fna.surgery.found import Stack, find_stacks
from fna.surgery.plan import Layers, parse_layers
from fna.surgery.rows_hf import ROWS, main_name, prefix_of, tokens_said, turned
from fna.surgery.spec import BARE, SPECS, BlockSpec, class_keys, class_name, forward_key


@dataclass(frozen=True)
class Kind:
    """Where a tower class keeps things: attribute paths of its blocks and of the module that cuts the image into patches."""

    blocks: str
    patches: str


KINDS: dict[str, Kind] = {
    "timm.VisionTransformer": Kind("blocks", "patch_embed.proj"),
    "timm.Eva": Kind("blocks", "patch_embed.proj"),
    "timm.Beit": Kind("blocks", "patch_embed.proj"),
    "timm.VisionTransformerRelPos": Kind("blocks", "patch_embed.proj"),
    "timm.VisionTransformerSAM": Kind("blocks", "patch_embed.proj"),
    "timm.NaFlexVit": Kind("blocks", "embeds.proj"),
    "torchvision.VisionTransformer": Kind("encoder.layers", "conv_proj"),
    "open_clip.VisionTransformer": Kind("transformer.resblocks", "conv1"),
}


@dataclass(frozen=True, eq=False)
class Tower:
    """A transformer found inside a model. ``kind`` is its class as the tables name it ("timm.Eva"), ``family`` the library.

    ``specs[i]`` describes ``blocks[i]``. ``patches`` is the module whose output ``[B, D, rows, columns]`` shows the grid of
    the image at hand; ``grid`` is the one that the model was made for. ``windowed``: blocks that attend in windows, each with how
    many tokens. ``seam``: what stands in for the forward of ``blocks``, where somebody brought one of their own.
    ``calls[i]``: the modules of ``blocks[i]`` that ask transformers' table, nothing elsewhere. ``rotary``: whether positions are
    turned into q and k, block by block. ``prefix_said``: whether somebody knows ``prefix``; else it is 0.
    """

    kind: str
    module: nn.Module
    blocks: tuple[nn.Module, ...]
    specs: tuple[BlockSpec, ...]
    prefix: int
    grid: tuple[int, int] | None = None
    patches: nn.Module | None = None
    batch_first: bool = True
    windowed: Mapping[int, int] = field(default_factory=dict)
    seam: Callable[..., Any] | None = None
    calls: tuple[tuple[nn.Module, ...], ...] = ()
    rotary: bool = False
    prefix_said: bool = True

    def layers(self, spec: Layers) -> tuple[int, ...]:
        """The blocks that ``spec`` names (`parse_layers`): by "all" and "last-half" those that see the whole image."""
        return parse_layers(spec, len(self.blocks), local=self.unasked)

    @property
    def bare(self) -> tuple[int, ...]:
        """Blocks that somebody pruned: no attention is left in them."""
        return tuple(number for number, spec in enumerate(self.specs) if spec.bare)

    @property
    def unasked(self) -> frozenset[int]:
        """Blocks that neither "all" nor "last-half" names: those of windows, and bare ones."""
        return frozenset((*self.windowed, *self.bare))

    def windows(self) -> str | None:
        """What has to be said of its windows, in words."""
        if not self.windowed:
            return None
        sizes = [str(size or "some") for size in sorted(set(self.windowed.values()))]
        seeing = [str(layer) for layer in range(len(self.blocks)) if layer not in self.windowed]
        told = {0: "no block is", 1: f"block {''.join(seeing)} is"}.get(len(seeing), f"blocks {', '.join(seeing)} are")
        return (
            f"{told} global; the others attend in windows of {' or '.join(sizes)} tokens and stay exact unless a number names them"
        )

    def notes(self) -> list[str]:
        """What who uses it should know: its windows, and that nobody told its prefix."""
        unsaid = "nobody says which tokens stand before the patches: taken as none, which fna.swap(prefix=...) changes"
        pruned = f"no attention is left in block {', '.join(map(str, self.bare))}, which stays as it is"
        return [*filter(None, [self.windows()]), *([pruned] if self.bare else []), *([] if self.prefix_said else [unsaid])]

    @property
    def family(self) -> str:
        """The library: timm, open_clip or transformers."""
        return self.kind.partition(".")[0]


def find_tower(model: nn.Module | Tower, part: str = "vision") -> Tower:
    """The one tower of ``model`` (or the model itself) whose blocks can be changed.

    ``part``: "vision", "language" for what reads texts, or the path of a module inside ``model`` ("vision_model.encoder"). Raises
    `UserError`, which lists what was found, if there is none, more than one, or attention that cannot be reached. A tower is found
    already.
    """
    if isinstance(model, Tower):
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"model={type(model).__name__}: is no torch.nn.Module; hand over the model itself, built and loaded.")
    found = find_candidates(model)
    asked = [
        one for one in found if (one.part == part if part in ("vision", "language") else f"{one.path}.".startswith(f"{part}."))
    ]
    usable = [one for one in asked if not isinstance(one.found, Stack) or one.found.plain]
    chosen = usable if len(usable) == 1 else [one for one in usable if one.main]
    if len(chosen) == 1:
        return chosen[0].tower()
    name = class_name(type(model))
    if usable:
        raise UserError(
            f"{name} holds {len(usable)} {part} transformers: {'; '.join(map(str, usable))}; say which with part=PATH, or hand "
            "over that module itself."
        )
    if found and (part != "vision" or not stacks.has_one(model)):
        raise UserError(f"{name} holds no {part} transformer that fna changes unasked; it holds {'; '.join(map(str, found))}.")
    if part != "vision":
        raise UserError(f"{name} holds no {part} transformer that fna knows: no attention in it asks transformers' table.")
    holder, blocks = stacks.find(model)
    stacks.check_sees(model, holder, blocks)
    said: int | None = getattr(holder, "num_prefix_tokens", None)
    return tower_of(holder, blocks, class_name(type(holder)), prefix=int(said or 0), prefix_said=said is not None)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A tower that could be meant: where it is, what it sees ("vision", "language" or "decoder"), the module or the stack."""

    path: str
    part: str
    found: nn.Module | Stack

    @property
    def main(self) -> bool:
        """Whether it is the one that is meant where a model holds several, as its row says."""
        return isinstance(self.found, Stack) and self.path.rpartition(".")[2] == main_name(self.found)

    def tower(self) -> Tower:
        """The tower itself."""
        return _table_tower(self.found) if isinstance(self.found, Stack) else _named_tower(self.found)

    def __str__(self) -> str:
        where, stack = self.path or "the model itself", self.found
        if not isinstance(stack, Stack):
            return f"{where} ({class_name(type(stack))}, {self.part})"
        crossed = "" if stack.plain else ", more than one attention a block: cross-attention, which fna leaves alone"
        unasked = f", part={self.path or self.part}" if self.part != "vision" and stack.plain else ""
        return f"{where} ({len(stack.blocks)} {stack.made_of}, {tokens_said(stack)}{crossed}{unasked})"


def find_candidates(model: nn.Module) -> list[Candidate]:
    """Towers of a table row inside ``model``, then stacks that ask transformers' table."""
    named = [Candidate(path, "vision", module) for path, module in model.named_modules() if _kind(module) is not None]
    return named + [Candidate(stack.path, _part(stack), stack) for stack in find_stacks(model)]


def _part(stack: Stack) -> str:
    """What a stack looks at: the queries of a detector's decoder are no image."""
    return "language" if not stack.vision or stack.causal else "decoder" if "Decoder" in stack.made_of else "vision"


def _table_tower(stack: Stack) -> Tower:
    """The tower that a stack of blocks is; what no row says of it is left out: no prefix, pieces that don't come apart."""
    parts = zip(stack.blocks, stack.calls, strict=True)
    specs = [_stack_spec(block, calls[0], stack.by_hand) if calls else BARE for block, calls in parts]
    return Tower(
        f"transformers.{type(stack.model).__name__}",
        stack.model,
        stack.blocks,
        tuple(specs),
        prefix_of(stack),
        stack.grid,
        stack.patches,
        windowed=stack.windowed,
        calls=() if stack.by_hand else stack.calls,
        rotary=turned(stack),
        prefix_said=stack.made_of in ROWS or not stack.vision,
    )


def _stack_spec(block: nn.Module, attention: nn.Module, by_hand: bool) -> BlockSpec:
    """A block's row; of one without the place of its attention, where a seam has to stand."""
    key = forward_key(block)
    place = next(name for name, module in block.named_modules() if module is attention) if by_hand else ""
    return SPECS.get(key, BlockSpec(place, norm1=None, norm2=None, pieces=False))


def _named_tower(module: nn.Module) -> Tower:
    kind = _kind(module)
    assert kind is not None
    return tower_of(
        module,
        tuple(attrgetter(KINDS[kind].blocks)(module)),
        kind,
        prefix=int(getattr(module, "num_prefix_tokens", 0)) if kind.startswith("timm.") else 1,  # timm's SAM has none
        grid=_grid(module, kind),
        patches=_reach(module, KINDS[kind].patches),
        batch_first=getattr(getattr(module, "transformer", None), "batch_first", True),
        rotary=getattr(module, "rope", None) is not None,
    )


def tower_of(module: nn.Module, blocks: tuple[nn.Module, ...], kind: str, *, prefix: int, **known: Any) -> Tower:
    """The tower of ``blocks`` in ``module``; ``known``: the fields of `Tower` that are."""
    specs = tuple(BARE if stacks.bare(block, blocks) else _spec(block, number) for number, block in enumerate(blocks))
    return Tower(kind, module, blocks, specs, prefix, windowed=stacks.windows(blocks), **known)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``x`` through some blocks; further arguments are what the model hands to each of them (masks, rotary tables)."""
    for block in blocks:
        out = block(x, *args, **kwargs)
        x = out[0] if isinstance(out, tuple) else out
    return x


def _kind(module: nn.Module) -> str | None:
    """The table name of a tower class that ``module`` is. Wrappers of older releases, which bear the same name, have no blocks."""
    key = next((key for key in class_keys(type(module)) if key in KINDS), None)
    return key if key is not None and _reach(module, KINDS[key].blocks) is not None else None


def _spec(block: nn.Module, number: int) -> BlockSpec:
    key = forward_key(block)
    return SPECS[key] if key in SPECS else BlockSpec(stacks.place(block, number), norm1=None, norm2=None, pieces=False)


def _reach(module: nn.Module, path: str) -> nn.Module | None:
    """The module at ``path``, None where it stops short."""
    try:
        return attrgetter(path)(module)
    except AttributeError:
        return None


def _grid(module: nn.Module, kind: str) -> tuple[int, int] | None:
    """(rows, columns) of patches at the image size that the model was made for."""
    size: Sequence[int] | None
    if kind.startswith("timm."):
        size = getattr(_reach(module, "patch_embed"), "grid_size", None)
    elif kind.startswith("torchvision."):
        size = (module.image_size // module.patch_size,) * 2  # type: ignore[operator, assignment]
    else:
        size = module.grid_size  # type: ignore[assignment]
    return None if size is None else (int(size[0]), int(size[1]))
