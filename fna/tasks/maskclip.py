"""CLIP's words as a segmentation head, without training: MaskCLIP (arXiv:2112.01071)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fna.data.segmentation import SegmentedDataset
from fna.errors import UserError
from fna.models.base import Model
from fna.ops.contract import Site, Tokens
from fna.ops.spread import spread
from fna.surgery.blocks import Tower, find_tower
from fna.surgery.forward import Forward
from fna.surgery.swap import current_swap
from fna.surgery.ways import make_seam
from fna.tasks.base import Run
from fna.tasks.cache import digest_of
from fna.tasks.class_names import check_names
from fna.tasks.dense import Inference, Score, as_map
from fna.tasks.features import final_norm, run_tower
from fna.tasks.texts import Template, class_texts, sentences


@dataclass(frozen=True)
class OwnValue:
    """The attention of MaskCLIP's last block: each token attends to itself alone."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """``v`` ``[B, H, N, d]``."""
        return v


@dataclass
class MaskClip:
    """Patches against class texts: the last block without its mixing of tokens, then the image's own norm and projection.

    ``residual`` and ``mlp``: whether the last block keeps them, as the released code does; models trained for dense values (fna's
    clip_shapes) want neither. ``templates``: see `fna.tasks.texts.sentences`; MaskCLIP's are the CLIP paper's 80 and five more.
    """

    templates: str | Sequence[Template] = "maskclip"
    residual: bool = True
    mlp: bool = True
    version: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"encode_text"})

    def __post_init__(self) -> None:
        sentences(self.templates)

    def check(self, model: Model, dataset: SegmentedDataset) -> None:
        """Raise `UserError` for a model without texts or without a projection of its image tower."""
        if model.encode_text is None:
            raise UserError(f"{model.name} reads no text: task.head=maskclip needs a CLIP; use the linear head.")
        _projection(find_tower(model.tower), model.name)
        check_names(
            model,
            dataset,
            self.templates,
            give="give their names with dataset.classes=[name,...] or in the annotations",
            instead="train a head (task=segmentation)",
        )

    def prepare(self, model: Model, dataset: SegmentedDataset, run: Run, view: Inference, cache: Path) -> str:
        """Encode the class names once; returns a digest of them and the templates."""
        class_texts(model, dataset.classes, self.templates, cache)
        return digest_of({"classes": list(dataset.classes), "templates": self.templates})

    def score(self, model: Model, dataset: SegmentedDataset, run: Run, view: Inference, cache: Path) -> Score:
        """Cosines ``[b, C, rows, columns]`` of patches and class texts, times 100."""
        texts = class_texts(model, dataset.classes, self.templates, cache)
        return lambda images: torch.einsum("bdrc,kd->bkrc", normalize(self.features(model, images).float(), dim=1) * 100, texts)

    def features(self, model: Model, images: Tensor) -> Tensor:
        """``[b, E, rows, columns]``: patches in the space of the texts. The last block runs twice, once as it stands.

        Warns where a change is in force there: its own attention takes that one's place.
        """
        tower, swap = find_tower(model.tower), current_swap(model.tower)
        last = len(tower.blocks) - 1
        if swap is not None and last in swap.plan:
            said = f"task.head=maskclip has its own attention in block {last}: what layers= and mask= change there is not measured."
            warnings.warn(said, stacklevel=2)
        entered: list[Tensor] = []
        held: list[Tokens | None] = []

        def keep(block: nn.Module, args: tuple[Any, ...]) -> None:
            entered.append(args[0])
            count = args[0].shape[1 if tower.batch_first else 0]
            held.append(None if swap is None else swap.tokens(count))

        with_hook = tower.blocks[-1].register_forward_pre_hook(keep)
        try:
            run_tower(model)(images)
        finally:
            with_hook.remove()
        out = self._last_block(tower, entered[-1])
        tokens = spread(out if tower.batch_first else out.transpose(0, 1), held[-1])
        dense = final_norm(tower.module)(tokens) @ _projection(tower, model.name)
        return as_map(model, dense, images)

    def _last_block(self, tower: Tower, x: Tensor) -> Tensor:
        """``x`` through the last block with every token attending to itself, whatever attention is swapped in there."""
        block, spec = tower.blocks[-1], tower.specs[-1]
        module = spec.attention_of(block)
        before = vars(module).pop("forward", None)  # of a swap that is in force
        try:
            seam = make_seam(Forward(depth=1, prefix=tower.prefix, grid=None), 0, OwnValue(), module)
            vars(module)["forward"] = seam.forward
            attended = spec.attend(block, x)
        finally:
            vars(module).pop("forward", None)
            if before is not None:
                vars(module)["forward"] = before
        out = attended if self.residual else attended - x
        return spec.feed(block, out) if self.mlp else out


def _projection(tower: Tower, name: str) -> Tensor:
    """``[D, E]``: from the image tower's width to that of the texts."""
    found = getattr(tower.module, "proj", None)
    if not isinstance(found, Tensor):
        raise UserError(f"{name}: its image tower has no plain projection into the texts' space; MaskCLIP needs open_clip's ViT.")
    return found
