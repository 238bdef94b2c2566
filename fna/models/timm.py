"""Any timm vision transformer, by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models import beside, timm_files, timm_heads, timm_names, timm_pooling, timm_sizes, timm_structure, timm_training, weights
from fna.models.base import Model, Weights, pixels
from fna.models.checkpoint_files import tensor_names
from fna.models.heads import Classes, head_classes, labels, read_classes, timm_labels
from fna.models.hf_files import check_pixels, folder_of, inner, model_config, preprocessing, unread_config
from fna.models.hf_pixels import share, squashes
from fna.models.settings import activation_of, in_words, otherwise, unresampled_note
from fna.ops.contract import Tokens
from fna.surgery.blocks import find_tower
from fna.values import Channels, Count, Domain, Positive, Spreads, between, check_fields, within

HUB = ("hf-hub:", "hf_hub:")
DATA_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class TimmModel:
    """A timm ViT with a published (``pretrained``), a local (``checkpoint``) or no training (``random``).

    ``name`` may carry timm's tag ("vit_base_patch16_224.augreg2_in21k_ft_in1k"). ``classes``: a TSV of class id and name in the
    order of the head's rows. ``mean std interpolation crop_pct crop_mode`` replace what the model's own data config says.
    ``norm_eps``: epsilon of every LayerNorm. ``part``: which of several sets of weights in a checkpoint (averaged ones, a teacher).
    ``positions``: how a position table is resampled for another image size, as "timm" does (antialiased) or "transformers".
    ``pool``: how one vector is made of the tokens, where neither tensors nor config files say it and it is not as the name has it.
    ``num_classes``, where not given, is that of the checkpoint's head. ``depth`` and ``patch_size``, where given, are checked
    against the built model.
    """

    name: str
    pretrained: bool = False
    checkpoint: str | None = None
    random: bool = False
    sha256: str | None = None
    num_classes: Annotated[int, between(0, 1_000_000)] | None = None
    classes: str | None = None
    domain: Domain = "photographs"
    norm_eps: Positive | None = None
    depth: Count | None = None
    patch_size: Count | None = None
    mean: Channels | None = None
    std: Spreads | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    crop_pct: Annotated[float, within(0, 1)] | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    part: str | None = None
    positions: Literal["timm", "transformers"] | None = None
    pool: Literal["token", "avg", "max", "avgmax", "map"] | None = None

    @property
    def abilities(self) -> frozenset[str] | None:
        """Features and patches; logits where there is a head, by timm's list of weights or the names in the file."""
        import timm

        if self.num_classes is not None:
            headed: bool | None = self.num_classes > 0
        elif self.checkpoint is not None:
            names = tensor_names(self.checkpoint)
            headed = None if names is None else timm_heads.has_one(names)
        else:
            known = None if ":" in self.name else timm.get_pretrained_cfg(self.name, allow_unregistered=True)
            headed = None if known is None else known.num_classes > 0
        return None if headed is None else frozenset({"encode_image", "patches"} | ({"classify"} if headed else set()))

    def check(self) -> None:
        """Raise `UserError` for a missing file, a name that is out of reach, or for no word on where the weights come from."""

        check_fields(self, "model")
        weights.check_choice(self.name, bool(self.pretrained), self.checkpoint, self.random)
        if self.name.startswith(HUB):
            weights.check_hub(self.name, "config.json")
        elif ":" not in self.name:
            timm_names.check_name(self.name)
        if self.checkpoint is None:
            for key, does in (("part", "chooses among the parts of a file"), ("sha256", "tells one file from others")):
                if getattr(self, key) is not None:
                    raise UserError(f"model.{key}={getattr(self, key)}: {does}; give it with model.checkpoint=PATH.")
        weights.check_file(self.checkpoint, self.sha256)
        self._beside()
        if self.classes is not None:
            read_classes(self.classes)

    def check_published(self) -> None:
        """Raise `UserError` for published weights that are not there, or neither on this machine nor within reach."""
        if self.checkpoint is None and not self.random and ":" not in self.name:
            timm_names.check_published(self.name)

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for weights, sizes and facts that do not fit."""
        import timm

        self.check()
        asked = pixels(image_size) or timm_sizes.said(folder_of(self.checkpoint))
        net, loaded, notes = self._loaded(asked, seed)
        self._check_facts(net)
        eps = self._follow(net)
        pixel, data = self._beside(), self._data(net)
        size = asked or tuple(data["input_size"][-2:])
        how = timm_sizes.resize(net, size, self.name, self.positions)
        square = size[0] if size[0] == size[1] else size
        data = {key: data[key] for key in DATA_KEYS}
        settings = {"activation": activation_of(net.blocks[0].mlp), **data, "norm_eps": eps, "positions": how and how[0]}
        pool = getattr(net, "global_pool", None)
        settings["pool"] = None if pool == "token" else pool or None
        settings |= {"built with": ", ".join(f"{key}={value}" for key, value in self._said().items()) or None}
        notes += [how[1]] if how else unresampled_note(self.positions)
        notes += self._run_as(settings | {"pool": pool}, pixel)
        notes += timm_pooling.usual_note(self.name, pool) if self.pool is None else []
        ids, names = self._head_classes(net)
        net = net.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        tower = find_tower(net)
        prefix = tower.prefix
        notes += tower.notes()
        return Model(
            name=self.name,
            tower=net,
            weights=loaded,
            transform=timm.data.transforms_factory.transforms_imagenet_eval(img_size=square, **timm_sizes.exact(data, size)),
            image_size=size,
            tokens=Tokens(prefix=prefix, grid=tuple(net.patch_embed.grid_size)),
            depth=len(net.blocks),
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            classify=net if net.num_classes > 0 else None,
            encode_image=lambda images: net.forward_head(net.forward_features(images), pre_logits=True),
            patches=lambda images: _sequence(net.forward_features(images))[:, prefix:],
            classes=names,
            class_ids=ids,
            notes=notes,
            settings=settings,
            no_head=next((note for note in notes if timm_heads.says_left(note)), ""),
        )

    def _head_classes(self, net: Any) -> Classes:
        """Ids and names of the head's rows: as ``classes`` has them, else as the config.json beside the weights, else as timm."""
        config = model_config(folder_of(self.checkpoint))
        own = (None, None) if self.classes is not None else timm_labels(config, net.num_classes)
        ids, names = own if own != (None, None) else head_classes(net, self.classes)
        return ids, names or labels(config, net.num_classes)

    def _beside(self) -> dict[str, Any]:
        """What the files beside the weights say is done to pixels, in timm's words."""
        folder = folder_of(self.checkpoint)
        steps = preprocessing(folder)
        own = {} if folder is None else inner(model_config(folder), "pretrained_cfg", folder / "config.json")
        said = {key: value for source in (own, steps) for key, value in source.items() if key in DATA_KEYS}
        if folder is not None:
            check_pixels(said, folder / "config.json")
        if "resize" in steps:
            said |= {"crop_pct": share(steps), "crop_mode": "squash" if squashes(steps) else "center"}
        return said

    def _data(self, net: Any) -> dict[str, Any]:
        """What is done to pixels: as timm's network of that name has it, as the files beside the weights say, as given."""
        import timm

        given = {key: getattr(self, key) for key in DATA_KEYS if getattr(self, key) is not None}
        return {**timm.data.resolve_model_data_config(net), **self._beside(), **given}

    def _follow(self, net: Any) -> float | None:
        """Run the network as the config.json beside its weights says; the LayerNorms' epsilon, None where timm's own stays."""
        said = beside.said(folder_of(self.checkpoint))["vision"]
        eps = said.eps if self.norm_eps is None else self.norm_eps
        beside.set_eps([net], eps)
        beside.check_heads([net], said, f"timm {self.name}")
        beside.set_activation([net], said)
        return None if eps is None else float(eps)

    def _run_as(self, settings: dict[str, Any], pixel: dict[str, Any]) -> list[str]:
        """A file does not say how it is to be run: what timm's model of that name does with it, where nobody said otherwise."""
        unread = [note for note in (unread_config(self.checkpoint), self._made_as()) if note]
        if self.checkpoint is None or all(getattr(self, key) is not None for key in ("mean", "std", "interpolation", "crop_pct")):
            return unread
        by = " with what its config files say of pixels" if pixel else ""
        knobs = {"mean": "[...]", "std": "[...]", "interpolation": "NAME", "crop_pct": "SHARE", "norm_eps": "NUMBER"}
        if pool := settings["pool"]:
            knobs["pool"] = "avg" if pool == "token" else "token"
        return [
            *unread,
            f"{Path(self.checkpoint).name} is run as timm's {self.name}{by} would be: {in_words(settings)}; "
            f"to run it otherwise: {otherwise(knobs)}, or another model.name",
        ]

    def _made_as(self) -> str:
        """A note where timm's config.json beside the weights names another architecture than they are run as."""
        folder = folder_of(self.checkpoint)
        made = model_config(folder).get("architecture")
        if folder is None or not isinstance(made, str) or made == self.name.partition(".")[0] or self.name.startswith(HUB):
            return ""
        return f"{folder / 'config.json'} says architecture {made}, run as {self.name}: model.name={made} follows it"

    def _loaded(self, size: tuple[int, int] | None, seed: int) -> tuple[Any, Weights, list[str]]:
        """The network at the size that its weights were made for, where they come from, and what has to be said of them."""
        if self.checkpoint:
            return self._from_file(self.checkpoint, size, seed)
        if self.pretrained and not self.random:
            with weights.downloading(f"the weights of timm {self.name}"):
                net = self._created(pretrained=True, **self._asked_pooling())
            source, domain = f"timm {self.name}", str(self.domain)
        else:
            with weights.seeded(seed):
                net = self._created(**self._asked_pooling())
            source, domain = f"random (seed {seed})", "none"
        return net, Weights(source, weights.digest(net.state_dict()), domain), []

    def _from_file(self, path: str, size: tuple[int, int] | None, seed: int) -> tuple[Any, Weights, list[str]]:
        """The network that takes the file's tensors, with them."""
        with weights.seeded(seed):
            net = self._created()
            found, state, trained = timm_files.read(path, net, self.part)
            timm_pooling.check(state, self.pool)
            asked = self.pool or self._args().get("global_pool")
            pooling = timm_pooling.options(net, state, asked)
            base = pooling | self._heads(net)
            grid = timm_sizes.grid(net, size)
            built = timm_structure.options(net, state, self.name, base, grid, self._created)
            net = self._created(**base, **built) if base or built else net
            unsure = timm_structure.doubt(path, net, state, grid)
            options = timm_files.options(path, state, net, self.name, size, self.num_classes)
            net = self._created(**base, **built, **options) if options else net
        fitted = timm_files.fit(path, state, net, self.name)
        shown = timm_pooling.shown_note(path, pooling) if pooling and asked is None else ""
        said = self._said_of_training(path, trained, net, state)
        said.append(timm_training.made_note(path, trained, self.name, net, partial(self._created, **{**base, **built, **options})))
        if size is None:
            said.append(timm_training.size_note(path, trained, net.patch_embed.img_size or self._data(net)["input_size"][-2:]))
        shown_too = timm_structure.note(path, built)
        notes = [note for note in (found.note(path), shown, shown_too, unsure, *fitted, *said) if note]
        return net, Weights(path, weights.digest(net.state_dict()), self.domain), notes

    def _said_of_training(self, path: str, trained: dict[str, Any], net: Any, state: dict[str, Tensor]) -> list[str]:
        """What the file says of its training that is not how it is run here."""
        run_as = self._data(net) | {"pool": getattr(net, "global_pool", None)}
        kinds = {key: kind for key, kind in get_type_hints(type(self), include_extras=True).items() if key in (*DATA_KEYS, "pool")}
        return timm_training.notes(path, trained, self.name, run_as, kinds, lambda other: timm_files.takes(other, state))

    def _asked_pooling(self) -> dict[str, Any]:
        """What a network without a file has to be built with for ``pool``; its LayerNorms stay where timm has them."""
        if self.pool is None:
            return {}
        with torch.device("meta"):
            net = self._created()
        timm_pooling.check(net.state_dict(), self.pool)
        return timm_pooling.options(net, net.state_dict(), self.pool)

    def _heads(self, net: Any) -> dict[str, int]:
        """The number of heads that the config.json beside the weights says, where it is not timm's."""
        heads = beside.said(folder_of(self.checkpoint))["vision"].heads
        if heads in (None, getattr(net.blocks[0].attn, "num_heads", None)) or net.embed_dim % heads:
            return {}
        return {"num_heads": heads}

    def _created(self, pretrained: bool = False, **options: Any) -> Any:
        import timm

        options = {**self._args(), **options}
        if self.num_classes is not None:
            options["num_classes"] = self.num_classes
        if self.name.startswith(HUB):
            with weights.downloading(f"the config of timm {self.name}", "model.name=NAME model.checkpoint"):
                net = timm.create_model(self.name, pretrained=pretrained, **options)
        else:
            try:
                net = timm.create_model(self.name, pretrained=pretrained, **options)
            except (TypeError, ValueError, KeyError, AssertionError) as error:
                reason = weights.first_line(error)
                if self.pool is not None and "global_pool" in options:
                    raise UserError(f"model.pool={self.pool}: timm does not build {self.name} so ({reason}); give null.") from error
                if not (args := self._args()):
                    raise
                raise UserError(f"{folder_of(self.checkpoint)}: timm does not build {self.name} with {args} ({reason}).") from error
        if not all(hasattr(net, part) for part in ("blocks", "patch_embed")):
            raise UserError(
                f"model.name={self.name}: timm's {type(net).__name__} is not a plain vision transformer (patches, then one list of "
                "blocks); the command line loads no other of timm's, fna.swap may reach it in your own code (docs/models_timm.md)."
            )
        return net

    def _args(self) -> dict[str, Any]:
        """What timm's config.json beside the weights says that the architecture of that name was built with."""
        config = model_config(folder_of(self.checkpoint))
        if config.get("architecture") != self.name.partition(".")[0]:
            return {}
        pool = {"global_pool": config["global_pool"]} if isinstance(config.get("global_pool"), str) else {}
        said = config.get("model_args")
        return pool | (dict(said) if isinstance(said, dict) else {})

    def _said(self) -> dict[str, Any]:
        """What of the files beside the weights tensors do not show: their number of heads, and what timm's own says."""
        heads = beside.said(folder_of(self.checkpoint))["vision"].heads
        args = {key: value for key, value in self._args().items() if key != "global_pool"}  # said as what is run
        return args | ({} if heads is None else {"num_heads": heads})

    def _check_facts(self, net: Any) -> None:
        """A wrong ``depth`` or ``patch_size`` in the YAML would let wrong layers and sizes through."""
        for fact, built in (("depth", len(net.blocks)), ("patch_size", net.patch_embed.patch_size[0])):
            said = getattr(self, fact)
            if said is not None and said != built:
                raise UserError(f"model.{fact}={said}: {self.name} has {built}; give model.{fact}={built} or null.")


def _sequence(x: Tensor) -> Tensor:
    """What a network makes of images, ``[B, N, D]``; SAM's are maps ``[B, D, rows, columns]``."""
    return x.flatten(2).mT if x.dim() == 4 else x
