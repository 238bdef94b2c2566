"""Features of patches from a frozen tower, by hooks on its blocks: the same for every family, swapped or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fna.errors import UserError
from fna.models.base import Model
from fna.surgery.blocks import find_tower
from fna.surgery.swap import current_swap
from fna.tasks.dense import as_map

NORMS = ("norm", "ln_post", "post_layernorm", "layernorm")  # timm, open_clip, transformers' CLIP and SigLIP, its DINOv2


def patch_features(model: Model, images: Tensor, blocks: int = 1) -> Tensor:
    """The last ``blocks`` blocks' patch tokens after the final norm, side by side: ``[b, D * blocks, rows, columns]``."""
    tower = find_tower(model.tower)
    if not 1 <= blocks <= len(tower.blocks):
        raise UserError(f"task.head.blocks={blocks}: {model.name} has {len(tower.blocks)} blocks.")
    with outputs_of(model, blocks) as kept:
        run_tower(model)(images)
    norm = final_norm(tower.module)
    return torch.cat([as_map(model, norm(kept[number]), images) for number in range(blocks)], 1)


def run_tower(model: Model) -> Callable[[Tensor], Tensor]:
    """Whatever of the model sends images through its tower."""
    found = model.patches or model.encode_image or model.classify
    if found is None:
        raise UserError(f"{model.name} runs on no images.")
    return found


def final_norm(tower: nn.Module) -> nn.Module:
    """The norm after the last block; the identity where there is none."""
    found = next((getattr(tower, name) for name in NORMS if isinstance(getattr(tower, name, None), nn.Module)), None)
    return found or nn.Identity()


@contextmanager
def outputs_of(model: Model, blocks: int) -> Iterator[dict[int, Tensor]]:
    """What each of the last ``blocks`` blocks gave in the forward passes inside, by place: ``[b, N, D]``; the last pass counts.

    Where tokens were merged or dropped, over those that there were at first.
    """
    tower, swap = find_tower(model.tower), current_swap(model.tower)
    kept: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[..., None]:
        def hook(block: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            x = output[0] if isinstance(output, tuple) else output
            x = x if tower.batch_first else x.transpose(0, 1)
            kept[number] = x if swap is None else swap.spread(x)

        return hook

    with ExitStack() as stack:
        for number, block in enumerate(tower.blocks[-blocks:]):
            stack.callback(block.register_forward_hook(keep(number)).remove)
        yield kept
