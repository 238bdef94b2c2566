"""What clip_shapes is trained on: captions against images, words against single patches, and outlines of things.

The towers are open_clip's own modules, run here by our own forward, which takes any image size and spends attention's
time on plain matrix products (on CPU about twice as fast to train as the fused kernel).
"""

import math
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from clip_shapes_batches import OUTLINE
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from fna.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES

PAIRS, KINDS = len(SHAPES) * len(COLOURS), len(SHAPES)
COUNTS = (len(SHAPES), len(COLOURS), len(SIZES), len(TEXTURES), 9)
CLAIMS = sum(a * b for a, b in combinations(COUNTS, 2))
BACKGROUND = PAIRS + KINDS  # its row in `prompts`
BACKGROUND_WEIGHT = 0.25  # most patches are background
SHAPE_WEIGHT = 4.0
TYPICAL_SIDE = 0.2  # of a thing, in unit coordinates


class Helper(nn.Module):
    """What training needs and the model does not keep: the sharpness of the patch loss, a linear read-out of claims
    that images and texts share, and one of the outline of the thing that a patch belongs to."""

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.dense_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.readout = nn.Linear(embedding, CLAIMS)
        nn.init.constant_(self.readout.bias, -2.5)
        self.outline = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 + OUTLINE**2))

    def claim_loss(self, features: Tensor, right: Tensor) -> Tensor:
        """Binary cross-entropy of normalised features `[B, E]` against claims, for each feature the sum over claims / 20."""
        logits = self.readout(features * features.shape[-1] ** 0.5)
        return F.binary_cross_entropy_with_logits(logits, right, reduction="sum") / (20 * max(len(right), 1))

    def outline_loss(self, patches: Tensor, centres: Tensor, boxes: Tensor, silhouettes: Tensor) -> Tensor:
        """How well patches of things `[M, D]` tell how far away the four sides of their thing's box are, and its silhouette.

        centres: `[M, 2]` (x, y) of the patches, boxes: `[M, 4]`, both in unit coordinates; silhouettes: `[M, OUTLINE, OUTLINE]`.
        """
        told = self.outline(patches).float()
        away = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], 1) / TYPICAL_SIDE
        where = F.l1_loss(told[:, :4], away)
        return 2 * where + 4 * F.binary_cross_entropy_with_logits(told[:, 4:], silhouettes.flatten(1))


def attention(
    block: ResidualAttentionBlock, x: Tensor, queries: int | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of the first `queries` tokens over all of `x` `[B, N, D]` (normalised), and all projected values."""
    batch, _, width = x.shape
    attn = block.attn
    heads = attn.num_heads
    q, k, v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    q = q[:, :queries]
    split = [t.reshape(batch, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v)]
    weights = split[0] * (width // heads) ** -0.5 @ split[1].mT
    if mask is not None:
        weights = weights + mask.to(weights.dtype)
    mixed = (weights.softmax(-1).to(split[2].dtype) @ split[2]).transpose(1, 2).reshape(batch, -1, width)
    return attn.out_proj(mixed), v


def run_block(
    block: ResidualAttentionBlock, x: Tensor, mask: Tensor | None = None, queries: int | None = None
) -> tuple[Tensor, Tensor]:
    """A pre-norm block; only the first `queries` tokens come out. Also the values of all tokens."""
    mixed, values = attention(block, block.ln_1(x), queries, mask)
    x = x[:, :queries] + mixed
    return x + block.mlp(block.ln_2(x)), values


def slim(x: Tensor) -> Tensor:
    """The residual stream in bfloat16 under autocast: copies between types are a fifth of a step's time otherwise."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def positions(visual: VisionTransformer, grid: int) -> Tensor:
    """The position table `[1 + grid * grid, D]`, resampled as open_clip does when it loads another size."""
    table = visual.positional_embedding
    full = visual.grid_size[0]
    if grid == full:
        return table
    square = table[1:].T.reshape(1, -1, full, full)
    square = F.interpolate(square, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], square.flatten(2)[0].T])


class Seen(NamedTuple):
    """Of one batch of images: normalised embeddings `[B, E]`, those of the patches `[B, N, E]`, and the patches' residual
    stream in the middle of the tower `[B, N, D]`."""

    image: Tensor
    dense: Tensor
    middle: Tensor


def see(visual: VisionTransformer, pixels: Tensor) -> Seen:
    """The image tower on pixels `[B, 3, S, S]`.

    A patch's embedding is its value in the last block, projected as the image's: what MaskCLIP (arXiv:2112.01071)
    reads, trained for it here.
    """
    patches = visual.conv1(pixels)
    table = positions(visual, patches.shape[-1])
    x = patches.flatten(2).mT + table[1:]
    first = (visual.class_embedding + table[0]).expand(len(x), 1, -1)
    x = slim(visual.ln_pre(torch.cat([first.to(x.dtype), x], 1)))
    *blocks, last = visual.transformer.resblocks
    half = len(blocks) // 2 + 1
    for block in blocks[:half]:
        x, _ = run_block(block, x)
    middle = x[:, 1:]
    for block in blocks[half:]:
        x, _ = run_block(block, x)
    top, values = run_block(last, x, queries=1)
    image = visual.ln_post(top[:, 0]) @ visual.proj
    dense = visual.ln_post(last.attn.out_proj(values[:, 1:])) @ visual.proj
    return Seen(F.normalize(image.float(), dim=-1), F.normalize(dense.float(), dim=-1), middle)


def read(model: CLIP, ids: Tensor) -> Tensor:
    """Normalised text embeddings `[B, E]` of token ids `[B, L]`, L at most the context."""
    length = ids.shape[1]
    x = slim(model.token_embedding(ids) + model.positional_embedding[:length])
    for block in model.transformer.resblocks:
        x, _ = run_block(block, x, model.attn_mask[:length, :length])
    last = model.ln_final(x[torch.arange(len(ids)), ids.argmax(-1)])
    return F.normalize((last @ model.text_projection).float(), dim=-1)


def groups(attributes: Tensor) -> list[tuple[slice, Tensor]]:
    """The questions asked of a feature: rows of `prompts`, and the right row within them. attributes: `[M, 4 or 5]`, a shape
    of -1 stands for background, of which only the first two are asked."""
    shape, colour, size, texture = attributes[:, :4].unbind(-1)
    is_thing = shape >= 0
    coloured = torch.where(is_thing, colour * KINDS + shape, -1)
    start = BACKGROUND + 1
    questions = [(slice(0, PAIRS), coloured), (slice(PAIRS, BACKGROUND), shape)]
    for words, right in ((COLOURS, colour), (SIZES, size), (TEXTURES, texture)):
        questions.append((slice(start, start + len(words)), right))
        start += len(words)
    return questions


def word_loss(features: Tensor, words: Tensor, attributes: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of features `[M, E]` against words `[88, E]` over the five groups of words, the shape's name, which is
    learnt last by far, SHAPE_WEIGHT times as heavy as the others."""
    logits = scale * features @ words.T
    is_thing = attributes[:, 0] >= 0
    weight = torch.where(is_thing, 1.0, BACKGROUND_WEIGHT)
    total = logits.new_zeros(())
    for index, (rows, right) in enumerate(groups(attributes)):
        if index < 2:  # with background as one more answer
            asked = torch.cat([logits[:, rows], logits[:, BACKGROUND : BACKGROUND + 1]], 1)
            loss = F.cross_entropy(asked, torch.where(is_thing, right, asked.shape[1] - 1), reduction="none")
            total = total + (SHAPE_WEIGHT if index == 1 else 1) * (loss * weight).sum() / weight.sum()
        else:
            loss = F.cross_entropy(logits[:, rows], right.clamp(min=0), reduction="none")
            total = total + (loss * is_thing).sum() / is_thing.sum().clamp(min=1)
    return total / (4 + SHAPE_WEIGHT)


def claims(attributes: Tensor) -> Tensor:
    """`[B, CLAIMS]` of 0 and 1: which attribute stands at which place, and which two attributes are of one thing.

    attributes: `[B, things, 5]`. What a full caption says of its scene, and a bag of words does not.
    """
    there = attributes[..., 0] >= 0
    spread = [
        F.one_hot(index.clamp(min=0), count).float() * there[..., None]
        for index, count in zip(attributes.unbind(-1), COUNTS, strict=True)
    ]
    pairs = [torch.einsum("bti,btj->bij", a, b).flatten(1) for a, b in combinations(spread, 2)]
    return torch.cat(pairs, 1).clamp(max=1)


def outline_loss(helper: Helper, patches: Tensor, owners: Tensor, boxes: Tensor, silhouettes: Tensor) -> Tensor:
    """Of the patches `[B, N, D]` that a thing owns (owners `[B, N]`, thing i as i + 1), against its scene's outlines."""
    grid = math.isqrt(owners.shape[1])
    scene, patch = torch.nonzero(owners > 0, as_tuple=True)
    thing = owners[scene, patch] - 1
    centres = (torch.stack([patch % grid, patch // grid], 1) + 0.5) / grid
    return helper.outline_loss(patches[scene, patch], centres, boxes[scene, thing], silhouettes[scene, thing])


def losses(model: CLIP, helper: Helper, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Caption, patch, single-object, claim and outline losses of a batch of `clip_shapes_batches.Batches`."""
    count = int(batch["batch"])
    pixels = batch["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1
    image, dense, middle = see(model.visual, pixels)
    texts, words = read(model, batch["texts"]), read(model, batch["prompts"])
    scale = model.logit_scale.exp()
    seen = scale * image[:count] @ texts.T  # right captions first, then the swapped ones
    right = torch.arange(count)
    caption = (F.cross_entropy(seen, right) + F.cross_entropy(seen[:, :count].T, right)) / 2
    owners = batch["owners"]
    decided = owners >= 0
    nothing = torch.full_like(batch["attributes"][:, :1], -1)
    table = torch.cat([nothing, batch["attributes"]], 1)  # owner -> attributes
    told = table.gather(1, owners.clamp(min=0)[..., None].expand(-1, -1, table.shape[-1]))[decided]
    patch = word_loss(dense[decided], words, told, helper.dense_scale.exp())
    single = word_loss(image[count:], words, batch["attributes"][count:, 0], scale)
    outline = outline_loss(helper, middle, owners, batch["boxes"], batch["silhouettes"])
    right_claims, full = claims(batch["attributes"]), batch["is_full"]
    claim = helper.claim_loss(image, right_claims) + helper.claim_loss(texts[:count][full], right_claims[:count][full])
    return {"caption": caption, "patch": patch, "single": single, "claim": claim, "outline": outline}
