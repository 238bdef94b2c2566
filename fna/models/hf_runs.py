"""Hugging Face networks at work: loaded by transformers from tensors at hand, and their outputs as fna names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fna.surgery.blocks import find_tower


@dataclass(frozen=True)
class Runs:
    """The network's outputs for images ``[B, 3, h, w]``; ``options`` are what its forward needs at another size."""

    net: Any
    prefix: int
    options: dict[str, Any]

    def classify(self, images: Tensor) -> Tensor:
        """``[B, C]`` logits."""
        return self.net(pixel_values=images, **self.options).logits

    def encode_image(self, images: Tensor) -> Tensor:
        """``[B, E]``: the projected embedding of a pair, else the pooled output."""
        if hasattr(self.net, "get_image_features"):
            return vectors(self.net.get_image_features(pixel_values=images, **self.options))
        out = self._tower(pixel_values=images, **self.options)
        pooled = getattr(out, "pooler_output", None)
        if pooled is None:  # CLS where there is one, as most heads take it, else the mean
            hidden = out.last_hidden_state
            pooled = hidden[:, 0] if self.prefix else in_rows(hidden).mean(1)
        projected = getattr(self.net, "visual_projection", None)
        return pooled if projected is None else projected(pooled)

    def patches(self, images: Tensor) -> Tensor:
        """``[B, rows * columns, D]`` of the tower's last hidden state."""
        return in_rows(self._tower(pixel_values=images, **self.options).last_hidden_state)[:, self.prefix :]

    @property
    def _tower(self) -> Any:
        """The image tower with its embeddings and norms around the blocks."""
        return find_tower(self.net).module


def in_rows(hidden: Tensor) -> Tensor:
    """``[B, N, D]`` of a last hidden state that some models give as a map ``[B, D, rows, columns]``."""
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden


def fitted(cls: Any, config: Any, state: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[Any, str, list[str]]:
    """The network with ``state``, by transformers' own loading and its renaming of older files, what does not fit, and the tensors
    that it has no use for."""
    with _quiet():
        net, info = cls.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32, ignore_mismatched_sizes=True
        )
    unused = sorted(name for name in info["unexpected_keys"] if not name.endswith("position_ids"))
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        name, got, wanted = wrong[0][:3]
        return net, f"{name} is {list(got)}, expected {list(wanted)} ({len(wrong)} such)", unused
    missing = sorted(set(info["missing_keys"]) - {name for name in expected if name.endswith("position_ids")})
    if all(name.startswith("pooler.") for name in missing) and "add_pooling_layer" in signature(cls).parameters:
        net.pooler = net.pooler if not missing else None  # as DINO's are published
        return net, "", unused
    problem = f"{len(missing)} of {len(expected)} tensors are missing (first: {missing[0]})" if missing else ""
    return net, problem, unused


def vectors(out: Any) -> Tensor:
    """Embeddings, which releases hand over bare or as an output's ``pooler_output``."""
    return out if isinstance(out, Tensor) else out.pooler_output


def show_all(net: nn.Module) -> list[str]:
    """Show all patches, in order, to an encoder that hides some of them by chance, in evaluation too (ViT-MAE); a note on that."""
    hiding = [module for module in net.modules() if hasattr(module, "random_masking") and not hasattr(module, "mask_spatial_shape")]
    for module in hiding:
        vars(module)["random_masking"] = _nothing_hidden
    return [f"{type(net).__name__} of transformers hides patches by chance; here it is shown all of them"] * bool(hiding)


def _nothing_hidden(sequence: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """As ViT-MAE's ``random_masking``: the sequence ``[B, N, D]``, what is hidden ``[B, N]``, and the way back to the order."""
    order = torch.arange(sequence.shape[1], device=sequence.device).expand(sequence.shape[:2])
    return sequence, torch.zeros(sequence.shape[:2], device=sequence.device), order


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting what was loaded on the console: what matters of it becomes an error."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
