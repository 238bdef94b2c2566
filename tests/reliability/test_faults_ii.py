"""Leftovers of faults by kind: attention under checkpointing, pruned blocks, interruptions, reports, files of other tools."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fna


def vit(depth: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**{**sizes, "depth": depth, **options}).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# Gradient checkpointing


def gradient(op: str, reentrant: bool | None, **options: Any) -> Tensor:
    model = vit()
    with fna.swap(model, op, layers="all", landmarks=16, **options):
        x = model.patch_embed(images()).detach().requires_grad_()
        for block in model.blocks:
            x = block(x) if reentrant is None else checkpoint(block, x, use_reentrant=reentrant)
        x.square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in model.blocks.parameters()])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("op", "options"), [("nystromformer", {}), ("fna", {"sampler": "uniform"})])
def test_a_block_that_runs_again_has_the_same_gradient_where_landmarks_hang_on_no_block(
    op: str, options: dict[str, Any], reentrant: bool
) -> None:
    torch.testing.assert_close(gradient(op, reentrant, **options), gradient(op, None, **options), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"op": "fna_local"}, "draws other landmarks"),  # groups go on from those of the block before
        ({"op": "fna_plus"}, "draws other landmarks"),
        ({"op": "low_rank", "reduce": "tome"}, "does not know which tokens were merged"),  # torch said that shapes differ
    ],
)
def test_one_whose_landmarks_or_tokens_come_from_earlier_blocks_is_refused_with_why(options: dict[str, Any], why: str) -> None:
    with pytest.raises(fna.UserError, match=f"block 3 runs again in the backward pass.* and {why}.*: turn it off"):
        gradient(reentrant=False, **options)
