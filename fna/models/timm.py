"""Any timm vision transformer, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fna.errors import UserError
from fna.models import weights
from fna.models.base import Model, Weights, pixels
from fna.models.heads import head_classes, read_classes
from fna.ops.contract import Tokens

DATA_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class TimmModel:
    """A timm ViT with a published (``pretrained``), a local (``checkpoint``) or no training (``random``).

    ``name`` may carry timm's tag ("vit_base_patch16_224.augreg2_in21k_ft_in1k"). ``classes``: a TSV of class id and name in the
    order of the head's rows. ``mean std interpolation crop_pct crop_mode`` replace what the model's own data config says.
    ``norm_eps``: epsilon of every LayerNorm. ``depth`` and ``patch_size``, where given, are checked against the built model.
    """

    name: str
    pretrained: bool = False
    checkpoint: str | None = None
    random: bool = False
    sha256: str | None = None
    num_classes: int | None = None
    classes: str | None = None
    domain: str = "photographs"
    norm_eps: float | None = None
    depth: int | None = None
    patch_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None

    @property
    def abilities(self) -> frozenset[str] | None:
        """Features and patches; logits where there is a head, which timm's own list of weights knows; a file's is seen later."""
        import timm

        classes = self.num_classes
        if classes is None and self.checkpoint is not None:
            return None
        if classes is None:
            known = timm.get_pretrained_cfg(self.name, allow_unregistered=True)
            classes = None if known is None else known.num_classes
        if classes is None:
            return None
        return frozenset({"encode_image", "patches"} | ({"classify"} if classes > 0 else set()))

    def check(self) -> None:
        """Raise `UserError` for a missing file or for no word on where the weights come from."""
        weights.check_choice(self.name, bool(self.pretrained), self.checkpoint, self.random)
        weights.check_file(self.checkpoint)
        if self.classes is not None:
            read_classes(self.classes)

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for weights, sizes and facts that do not fit."""
        import timm

        self.check()
        if not timm.is_model(self.name.split(".")[0]):
            raise UserError(f"model.name={self.name}: timm has no such model; timm.list_models('vit*') lists them.")
        net, loaded = self._loaded(seed)
        self._check_facts(net)
        data = timm.data.resolve_model_data_config(net) | self._overrides()
        size = pixels(image_size) or tuple(data["input_size"][-2:])
        _resize(net, size, self.name)
        square = size[0] if size[0] == size[1] else size
        data = {key: data[key] for key in DATA_KEYS}
        ids, names = head_classes(net, self.classes)
        net = net.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        prefix = net.num_prefix_tokens
        return Model(
            name=self.name,
            tower=net,
            weights=loaded,
            transform=timm.data.transforms_factory.transforms_imagenet_eval(img_size=square, **data),
            image_size=size,
            tokens=Tokens(prefix=prefix, grid=tuple(net.patch_embed.grid_size)),
            depth=len(net.blocks),
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            classify=net if net.num_classes > 0 else None,
            encode_image=lambda images: net.forward_head(net.forward_features(images), pre_logits=True),
            patches=lambda images: net.forward_features(images)[:, prefix:],
            classes=names,
            class_ids=ids,
        )

    def _loaded(self, seed: int) -> tuple[Any, Weights]:
        import timm

        options: dict[str, Any] = {} if self.num_classes is None else {"num_classes": self.num_classes}
        if self.pretrained and not self.checkpoint and not self.random:
            with weights.downloading(f"the weights of timm {self.name}"):
                net = timm.create_model(self.name, pretrained=True, **options)
            source, domain = f"timm {self.name}", self.domain
        else:
            with weights.seeded(seed):
                net = timm.create_model(self.name, **options)
            source, domain = f"random (seed {seed})", "none"
        if not all(hasattr(net, part) for part in ("blocks", "patch_embed", "num_prefix_tokens")):
            raise UserError(f"model.name={self.name}: not a plain vision transformer; fna swaps attention in those only.")
        if self.checkpoint:
            weights.check_file(self.checkpoint, self.sha256)
            weights.fit(net, self._converted(net), self.checkpoint, f"timm {self.name} with {net.num_classes} classes")
            source, domain = self.checkpoint, self.domain
        digest = weights.digest(net.state_dict())
        if self.norm_eps is not None:
            for norm in (module for module in net.modules() if isinstance(module, nn.LayerNorm)):
                norm.eps = self.norm_eps
        return net, Weights(source, digest, domain)

    def _converted(self, net: Any) -> weights.State:
        """The checkpoint's tensors, through timm's own converter where they come from elsewhere (the DINOv2 releases)."""
        from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

        assert self.checkpoint is not None
        state = weights.read(self.checkpoint)
        foreign = "mask_token" in state and isinstance(net, VisionTransformer)
        return checkpoint_filter_fn(state, net) if foreign else state

    def _check_facts(self, net: Any) -> None:
        """A wrong ``depth`` or ``patch_size`` in the YAML would let wrong layers and sizes through."""
        for fact, built in (("depth", len(net.blocks)), ("patch_size", net.patch_embed.patch_size[0])):
            said = getattr(self, fact)
            if said is not None and said != built:
                raise UserError(f"model.{fact}={said}: {self.name} has {built}; give model.{fact}={built} or null.")

    def _overrides(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in DATA_KEYS if getattr(self, key) is not None}


def _resize(net: Any, size: tuple[int, ...], name: str) -> None:
    """Position embedding and grid for ``size`` (rows, columns in px), by timm's own resampling."""
    if tuple(net.patch_embed.img_size or ()) == size:
        return
    patch = net.patch_embed.patch_size
    if any(side % step or side < step for side, step in zip(size, patch, strict=True)):
        raise UserError(f"image_size={list(size)}: {name} has patches of {patch[0]} px; give multiples of {patch[0]}.")
    if not hasattr(net, "set_input_size"):
        raise UserError(f"image_size={list(size)}: timm cannot change the input size of {name}; leave image_size=null.")
    net.set_input_size(img_size=size)
