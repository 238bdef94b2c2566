"""Test-time registers: the activations that make massive tokens, moved to a token of their own.

After Jiang et al. (arXiv 2506.08010): a few MLP neurons grow the outlier tokens. They are found on a set of images, zeroed on the
patches, and their strongest activation is given to a token appended at the end, which is taken off after the last block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from fna.errors import UserError
from fna.ops.contract import Attention, Memo
from fna.surgery.blocks import Tower, find_tower
from fna.surgery.extras import add
from fna.surgery.swap import Swap, swap_tower
from fna.values import Count, between

VALUES = ("per_block", "per_neuron")
PATCHES = ("zero", "mean", "only_outliers", "same")
_ENTRY_NORMS = ("ln_pre", "pre_layrnorm", "norm_pre")  # where an appended zero goes in, a norm's bias comes out


@dataclass(frozen=True)
class Registers:
    """What ``conf/mask/test_time_registers.yaml`` instantiates.

    Finding: outliers have a norm above ``threshold`` (None: the widest log gap) after block ``detect``; the ``neurons`` strongest
    on them, in blocks up to ``highest`` (None: the one where the outliers' norm jumps), are the register neurons. Using: ``tokens``
    tokens are appended; each gets, times ``scale``, the largest activation (by size) over ``value``; ``patches`` says what is left
    on the patches. ``calibration``: how many images. ``unmasked``: as in `fna.masking.strategy.Masking`. ``found``: block ->
    neurons, once calibrated.
    """

    neurons: Annotated[int, between(0, 1_000_000)] = 10
    tokens: Annotated[int, between(0, 64)] = 1
    detect: int = -1
    threshold: float | None = None
    highest: int | None = None
    sparse: bool = False
    value: str = "per_block"
    patches: str = "zero"
    scale: float = 1.0
    calibration: Count = 100
    unmasked: bool = False
    found: Mapping[int, list[int]] | None = field(default=None, hash=False)
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for knob, word, known in (("value", self.value, VALUES), ("patches", self.patches, PATCHES)):
            if word not in known:
                raise ValueError(f"mask.{knob}={word}: there is {', '.join(known)}.")
        if self.neurons < 0 or self.tokens < 0 or self.calibration < 1:
            raise ValueError("mask.neurons and mask.tokens must be at least 0, mask.calibration at least 1.")

    def check(self, depth: int) -> None:
        """Raise `UserError` for blocks that a model of ``depth`` blocks does not have."""
        if not -depth <= self.detect < depth:
            raise UserError(f"mask.detect={self.detect}: this model has blocks 0-{depth - 1}; negative numbers count from the end.")
        if self.highest is not None and not 0 <= self.highest < depth:
            raise UserError(f"mask.highest={self.highest}: this model has blocks 0-{depth - 1}.")

    def nothing_found(self, batch: int, tokens: int) -> Memo:
        """Registers leave nothing in the memo."""
        return {}

    def swap(self, model: nn.Module | Tower, plan: Mapping[int, Attention], **options: Any) -> Swap:
        """`swap_tower` with the registers on top, until it is restored. Raises `UserError` before calibration."""
        if self.found is None:
            raise UserError("mask=test_time_registers: no register neurons yet; calibrate on images first (find_registers).")
        swap = swap_tower(model, plan, **options)
        add(swap, partial(_install, self))
        return swap


def _install(registers: Registers, swap: Swap) -> None:
    tower = swap.tower
    if getattr(tower.module, "rope", None) is not None:
        raise UserError("mask=test_time_registers: rotary positions leave no place for an appended token in this model.")
    if registers.tokens:
        entry = entry_value(tower)
        # First of all hooks: whoever looks at block 0's input sees the appended tokens.
        hook = partial(_append, swap, entry, registers.tokens)
        swap._hooks.append(tower.blocks[0].register_forward_pre_hook(hook, with_kwargs=True, prepend=True))
        swap._hooks.append(tower.blocks[-1].register_forward_hook(partial(_strip, swap, registers.tokens)))
    for layer, neurons in (registers.found or {}).items():
        index = torch.tensor(neurons, device=next(tower.module.parameters()).device)
        out = tower.specs[layer].mlp_out(tower.blocks[layer])
        swap._hooks.append(out.register_forward_pre_hook(partial(_move, tower, registers, index)))


def entry_value(tower: Tower) -> Tensor:
    """What an appended token of zeros is when it enters block 0 ``[D]``: the bias of the norm before it, if there is one."""
    norm = next((part for name in _ENTRY_NORMS if isinstance(part := getattr(tower.module, name, None), nn.LayerNorm)), None)
    parameter = next(tower.blocks[0].parameters())
    if norm is not None and norm.bias is not None:
        return norm.bias.detach()
    width = next(module for module in tower.blocks[0].modules() if isinstance(module, nn.Linear)).in_features
    return parameter.new_zeros(width)


def _append(swap: Swap, entry: Tensor, count: int, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    # Not when a look-ahead enters block 0 again: what it runs on has them. It has a frame of its own.
    if swap.frame.aside:
        return None
    x = args[0] if args else kwargs["hidden_states"]
    axis = 1 if swap.tower.batch_first else 0
    shape = list(x.shape)
    shape[axis] = count
    longer = torch.cat([x, entry.to(x.dtype).expand(shape)], dim=axis)
    return ((longer, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": longer})


def _strip(swap: Swap, count: int, block: nn.Module, args: Any, output: Any) -> Any:
    if swap.frame.aside:
        return None
    axis = 1 if swap.tower.batch_first else 0
    x = output[0] if isinstance(output, tuple) else output
    shorter = x.narrow(axis, 0, x.shape[axis] - count)
    return (shorter, *output[1:]) if isinstance(output, tuple) else shorter


def _move(tower: Tower, registers: Registers, index: Tensor, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Pre-hook of the MLP's last layer, whose input is the activation ``[B, N, hidden]``."""
    whole = args[0] if tower.batch_first else args[0].transpose(0, 1)
    last = whole.shape[1] - registers.tokens
    some = whole[..., index]
    tokens = some[:, :last]
    axes = (1, 2) if registers.value == "per_block" else (1,)
    high, low = tokens.amax(axes, keepdim=True), tokens.amin(axes, keepdim=True)
    strongest = torch.where(high >= -low, high, low)
    moved = torch.cat(
        [some[:, : tower.prefix], left_on_patches(tokens[:, tower.prefix :], registers.patches), some[:, last:]], dim=1
    )
    moved[:, last:] = registers.scale * strongest
    whole = whole.index_copy(-1, index, moved)
    return (whole if tower.batch_first else whole.transpose(0, 1),)


def left_on_patches(x: Tensor, how: str) -> Tensor:
    """The register activations ``[B, P, K]`` of the patches after the move; "only_outliers": beyond one deviation, the mean."""
    if how == "same":
        return x
    if how == "zero":
        return torch.zeros_like(x)
    mean = x.mean(1, keepdim=True)
    if how == "mean":
        return mean.expand_as(x)
    return torch.where(x > mean + x.std(1, keepdim=True), mean, x)


@torch.inference_mode()
def find_registers(model: nn.Module, batches: Iterable[Tensor], forward: Any, registers: Registers, threshold: float) -> Registers:
    """``registers`` with its neurons found on ``batches`` of images, run by ``forward(images)``.

    The score of a neuron is the mean size of its activation over the outliers of an image, averaged over the images that have
    any. Raises `UserError` for blocks that are not there, and if no image has an outlier: then there is nothing to move.
    """
    tower = find_tower(model)
    depth = len(tower.blocks)
    registers.check(depth)
    detect = registers.detect % depth
    scores: list[Tensor] | None = None
    norms, used = torch.zeros(depth, dtype=torch.float64), 0
    for images in batches:
        activations, outputs = _watched(tower, lambda images=images: forward(images))
        outlier = outputs[detect].norm(dim=-1) > threshold
        outlier[:, : tower.prefix] = False
        some = outlier.any(1)
        if not bool(some.any()):
            continue
        share = (outlier / outlier.sum(1, keepdim=True).clamp_min(1))[..., None]
        sums = [_score(activation, share, registers.sparse) for activation in activations]
        scores = sums if scores is None else [a + b for a, b in zip(scores, sums, strict=True)]
        norms += torch.stack([(output.norm(dim=-1) * share[..., 0]).sum() for output in outputs]).double().cpu()
        used += int(some.sum())
    if scores is None:
        raise UserError(f"no patch token has a norm above {threshold:.4g} after block {detect}: no register neurons to be found.")
    highest = int((norms[1:] / norms[:-1]).argmax()) + 1 if registers.highest is None else registers.highest
    ranked = torch.stack([score / used for score in scores[: highest + 1]])
    best = ranked.flatten().topk(min(registers.neurons, ranked.numel())).indices.tolist()
    found: dict[int, list[int]] = {}
    for place in sorted(best):
        found.setdefault(place // ranked.shape[1], []).append(place % ranked.shape[1])
    return replace(registers, found=found)


def _watched(tower: Tower, run: Any) -> tuple[list[Tensor], list[Tensor]]:
    """MLP activations and outputs of all blocks in one pass, float32, batch first: ``[B, N, hidden]`` and ``[B, N, D]``."""
    activations: list[Tensor] = []
    outputs: list[Tensor] = []

    def put(into: list[Tensor], x: Any) -> None:
        x = x[0] if isinstance(x, tuple) else x
        into.append((x if tower.batch_first else x.transpose(0, 1)).float())

    hooks = []
    for block, spec in zip(tower.blocks, tower.specs, strict=True):
        hooks.append(spec.mlp_out(block).register_forward_pre_hook(lambda _, args: put(activations, args)))
        hooks.append(block.register_forward_hook(lambda _, args, out: put(outputs, out)))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return activations, outputs


def _score(activation: Tensor, share: Tensor, sparse: bool) -> Tensor:
    """Mean size on the outliers, summed over images ``[hidden]``; ``sparse``: of neurons below 0.5 on half the tokens."""
    score = (activation.abs() * share).sum((0, 1))
    rare = (activation < 0.5).float().mean((0, 1)) >= 0.5
    return score * rare if sparse else score
