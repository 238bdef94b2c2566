"""A small vision transformer whose weights are written down, so that its massive and dormant tokens are known.

257 tokens (CLS and 16 x 16 patches of 2 px), 6 blocks, no norms. Channels of the residual stream: what marks CLS, a trigger,
the size that grows, a constant, a suppressor, and small content. A patch's red pixels are its trigger (2.0 massive, 1.5 to 1.6
dormant), its green ones its power to suppress (1.0 massive).

Block 2: every token attends to the strongest trigger, and a massive token writes -1 onto the trigger of whoever attends to it.
Its MLP then makes any token whose trigger is still above 0.75 grow by 800 times the excess: massive ones do (2 - 1), dormant ones
do not (1.5 - 1) unless the massive ones are out of the way. Block 3: attention follows size, CLS keeps a little for itself.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

FLAG, TRIGGER, SIZE, ONE, SUPPRESSOR, CONTENT = range(6)
WIDTH, HEADS, DEPTH, SIDE = 16, 2, 6, 16
SUPPRESS, DETECT = 2, 3


def planted_model() -> VisionTransformer:
    """The model, float32, eval mode."""
    model = VisionTransformer(
        img_size=2 * SIDE,
        patch_size=2,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=1,
        num_classes=0,
        norm_layer=nn.Identity,
        act_layer=nn.ReLU,
        global_pool="token",
    ).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        weight = model.patch_embed.proj.weight
        weight[TRIGGER, 0] = weight[SUPPRESSOR, 1] = 0.25  # the mean of four pixels
        weight[CONTENT:, 2] = 0.05 * torch.randn(WIDTH - CONTENT, 2, 2, generator=torch.Generator().manual_seed(0))
        model.cls_token[..., FLAG] = 1
        model.pos_embed[..., ONE] = 1
        _attend(model.blocks[SUPPRESS].attn, {TRIGGER: 20.0})
        _attend(model.blocks[DETECT].attn, {SIZE: 0.02, FLAG: 2.0})
        attention, mlp = model.blocks[SUPPRESS].attn, model.blocks[SUPPRESS].mlp
        attention.qkv.weight[2 * WIDTH, SUPPRESSOR] = 1
        attention.proj.weight[TRIGGER, 0] = -1
        mlp.fc1.weight[0, TRIGGER], mlp.fc1.bias[0] = 1, -0.75
        mlp.fc2.weight[SIZE, 0] = 800
    return model


def _attend(attention: nn.Module, by: dict[int, float]) -> None:
    """Logits of a key: the sum of its channels times these factors, the same for every query and head."""
    d = WIDTH // HEADS
    for head in range(HEADS):
        attention.qkv.weight[head * d, ONE] = d**0.5
        for channel, factor in by.items():
            attention.qkv.weight[WIDTH + head * d, channel] = factor


def planted_images(massive: list[list[int]], dormant: list[list[int]], seed: int = 0) -> Tensor:
    """``[B, 3, 32, 32]`` with these patches massive and dormant (numbers from 0, row by row; CLS is not counted)."""
    images = torch.zeros(len(massive), 3, SIDE, SIDE)
    images[:, 2] = torch.rand(len(massive), SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    for image, patches in enumerate(massive):
        images[image, :2].flatten(1)[0, patches] = 2.0
        images[image, :2].flatten(1)[1, patches] = 1.0
    for image, patches in enumerate(dormant):
        for rank, patch in enumerate(patches):
            images[image, 0].flatten()[patch] = 1.6 - 0.05 * rank
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


def token_set(patches: list[list[int]]) -> Tensor:
    """bool ``[B, 257]`` of these patches."""
    chosen = torch.zeros(len(patches), 1 + SIDE * SIDE, dtype=torch.bool)
    for image, members in enumerate(patches):
        chosen[image, [1 + member for member in members]] = True
    return chosen
