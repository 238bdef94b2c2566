"""CLIP and its relatives through open_clip: an image tower and a text tower into one space."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fna.errors import UserError
from fna.models import beside, open_clip_files, open_clip_pixels, open_clip_sizes, open_clip_text, weights
from fna.models.base import Model, Weights, pixels
from fna.models.hf_files import folder_of, model_config, unread_config
from fna.models.settings import activation_of, in_words, otherwise, unresampled_note
from fna.models.text import TOKENIZER_FILES, Texts
from fna.records import refuse_mark
from fna.values import Channels, Count, Domain, Spreads, check_fields

ZOO = Path(__file__).parent / "zoo"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin")
PUBLISHED = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUB = "hf-hub:"


@dataclass(frozen=True)
class OpenClipModel:
    """An open_clip model by ``name``: a built-in one ("ViT-L-14"), "local-dir:FOLDER" or one of fna's own, "zoo:FOLDER".

    ``pretrained`` is open_clip's tag ("openai"): it decides QuickGELU and preprocessing, and the download. ``checkpoint`` is a
    local file with those weights, so the tag still says how to run them; `null` as tag where they are nobody's. ``quick_gelu``
    overrules the tag. A folder brings its own config (open_clip_config.json), weights (open_clip_model.safetensors) and tokenizer
    (merges.txt.gz), and may say the sha256 of its weights (model.sha256). ``sha256`` refuses any other checkpoint file.
    ``tokenizer``: a folder with a Hugging Face tokenizer, for models such as SigLIP that would fetch theirs.
    ``mean std interpolation resize_mode`` overrule what the tag, or a Hugging Face folder given as checkpoint, says of pixels.
    ``part``: which of several sets of weights in a checkpoint (averaged ones). ``positions``: how a position table is resampled
    for another image size, as "timm" does (antialiased, open_clip's way) or "transformers".
    """

    name: str
    pretrained: str | None = None
    checkpoint: str | None = None
    random: bool = False
    sha256: str | None = None
    quick_gelu: bool | None = None
    tokenizer: str | None = None
    domain: Domain = "photographs"
    depth: Count | None = None
    patch_size: Count | None = None
    mean: Channels | None = None
    std: Spreads | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    part: str | None = None
    positions: Literal["timm", "transformers"] | None = None

    @property
    def abilities(self) -> frozenset[str]:
        """Both towers into one space, and nothing else."""
        return frozenset({"encode_image", "encode_text"})

    def check(self) -> None:
        """Raise `UserError` for a missing file or folder, or for no word on where the weights come from."""
        check_fields(self, "model")
        folder = self._folder()
        if folder is not None and not (folder / "open_clip_config.json").is_file():
            raise UserError(f"model.name={self.name}: {folder} holds no open_clip_config.json.")
        if folder is not None:
            refuse_mark(folder, "open_clip")
        if self.pretrained is not None and self.name.startswith("zoo:"):
            raise UserError(
                f"model.pretrained={self.pretrained}: {self.name} is embedded in fna with its weights; leave it out, or take "
                "model=clip_l14 for open_clip's models."
            )
        on_hub = self.name.startswith(HUB)
        weights.check_choice(self.name, bool(self.pretrained or folder or on_hub), self.checkpoint, self.random)
        weights.check_random(self.random, sha256=self.sha256)
        if on_hub:
            weights.check_hub(self.name, "open_clip_config.json")
        if self.part is not None and self.checkpoint is None:
            raise UserError(f"model.part={self.part}: chooses among the parts of a file; give it with model.checkpoint=PATH.")
        if self.tokenizer is not None and not any((Path(self.tokenizer) / name).is_file() for name in TOKENIZER_FILES):
            raise UserError(f"model.tokenizer={self.tokenizer}: no folder with a tokenizer ({', '.join(TOKENIZER_FILES[:3])}).")
        tag = self._tag()
        quick = self._quick(tag)
        if self.random:
            return
        weights.check_file(self._local_file(), self._sha256())
        if (folder := folder_of(self.checkpoint)) is not None:
            open_clip_pixels.said_beside(folder)
            open_clip_files.check_config(folder, self._config() | {"quick_gelu": quick}, self._given(), self.name)

    def check_published(self) -> None:
        """Raise `UserError` for published weights that are neither on this machine nor within reach."""
        if not self.random and self._local_file() is None:
            repository, _, file = self._tag().get("hf_hub", "").rpartition("/")
            what = f"the weights of open_clip {self.name} {self.pretrained}"
            weights.check_published(what, repository, [file] if file else PUBLISHED)

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for weights, sizes and facts that do not fit."""
        self.check()
        size = pixels(image_size)
        if size is not None and self.patch_size is not None:
            open_clip_sizes.check_multiple(self.name, size, self.patch_size)
        tag = self._tag()
        net, loaded, notes = self._loaded(tag, size, seed)
        how = None
        if size is not None:
            how = open_clip_sizes.resize(net, size, self.positions)
            net.visual.image_size = net.visual.preprocess_cfg["size"] = size
        crop_pct = self._crop_pct()
        settings = self._settings(net, how and how[0], crop_pct) | self._follow(net)
        notes += [how[1]] if how else unresampled_note(self.positions)
        notes += self._run_as(settings)
        tokens, depth, patch = open_clip_sizes.tokens_of(net.visual, self.name)
        for fact, built in (("depth", depth), ("patch_size", patch)):
            said = getattr(self, fact)
            if said is not None and said != built:
                raise UserError(f"model.{fact}={said}: {self.name} has {built}; give model.{fact}={built} or null.")
        shape = pixels(net.visual.image_size)
        assert shape is not None
        open_clip_sizes.check_multiple(self.name, shape, patch)
        net = net.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        texts = Texts(net, torch.device(device), self._tokenizer)
        return Model(
            name=self.name,
            tower=net,
            weights=loaded,
            transform=open_clip_pixels.transform(net.visual.preprocess_cfg, shape, crop_pct),
            image_size=shape,
            tokens=tokens,
            depth=depth,
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            encode_image=net.encode_image,
            encode_text=texts.encode,
            cut_texts=texts.cut,
            spelt_texts=texts.spelt,
            notes=notes,
            settings=settings,
        )

    def _loaded(self, tag: dict[str, Any], size: tuple[int, int] | None, seed: int) -> tuple[Any, Weights, list[str]]:
        """The network at the size that its weights were made for, where they come from, and what has to be said of them."""
        with weights.seeded(seed):
            net = self._created(tag)
        if self.random:
            return net, Weights(f"random (seed {seed})", weights.digest(net.state_dict()), "none"), []
        local = self._local_file()
        path = local or self._downloaded(tag)
        if local is None:
            weights.check_file(path, self.sha256)
        found, state = open_clip_files.read(path, net, self.part)
        own_size = open_clip_files.made_for(path, state, net, self.name, size)
        if own_size is not None:
            net = self._created(tag, own_size)
        open_clip_files.fit(path, state, net, self.name)
        source = self.checkpoint or (self.name if local else f"open_clip {self.name} {self.pretrained}")
        asked = self.quick_gelu is None and not self._quick(tag)
        notes = [found.note(path), open_clip_files.openai_note(path, found) if asked else ""]
        return net, Weights(source, weights.digest(found.state), self.domain), [note for note in notes if note]

    def _created(self, tag: dict[str, Any], size: tuple[int, int] | None = None) -> Any:
        """open_clip's own construction: built-in config or the folder's, QuickGELU and preprocessing as the tag says.

        Raises `UserError` for an image tower that is no vision transformer.
        """
        import open_clip

        with _quiet(), self._reaching_texts():
            net = open_clip.create_model(
                self._open_clip_name(),
                load_weights=False,
                force_preprocess_cfg=self._preprocess(tag),
                force_image_size=size,
                pretrained_text=False,
                quick_gelu=self._quick(tag),  # force_quick_gelu cannot say no
            )
        open_clip_sizes.tokens_of(net.visual, self.name)
        return net

    def _quick(self, tag: dict[str, Any]) -> bool:
        """Whether the activation is QuickGELU: as given, else as the config or the tag says; a config.json is followed later."""
        config = self._config()
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        fixed = [part for part in (vision, text) if {"timm_model_name", "hf_model_name", "act_kwargs"} & set(part)]
        if self.quick_gelu and fixed:
            raise UserError(f"model.quick_gelu=true: {self.name} has a tower whose activation is fixed; leave it out.")
        if self.quick_gelu is not None:
            return self.quick_gelu
        return not fixed and bool(config.get("quick_gelu") or tag.get("quick_gelu"))

    def _given(self) -> tuple[str, ...]:
        """Keys of an open_clip config that were said otherwise."""
        return () if self.quick_gelu is None else ("quick_gelu",)

    def _follow(self, net: Any) -> dict[str, Any]:
        """Run both towers as the config.json beside the weights says; what of it other settings do not show."""
        folder = folder_of(self.checkpoint)
        if folder is None or not model_config(folder):
            return {}
        shown: dict[str, Any] = {}
        towers = {"vision": [net.visual], "text": [part for name, part in net.named_children() if name != "visual"]}
        for name, said in beside.said(folder).items():
            beside.check_heads(towers[name], said, f"open_clip {self.name}")
            if beside.set_eps(towers[name], said.eps):
                shown[f"{name}_norm_eps"] = said.eps
            if self.quick_gelu is None:
                beside.set_activation(towers[name], said)
        tower = getattr(net.visual, "trunk", None) or net.visual.transformer
        text = activation_of(nn.ModuleList(towers["text"]))
        shown |= {"activation": activation_of(tower)}
        return shown if text == shown["activation"] else shown | {"text_activation": text}

    def _preprocess(self, tag: dict[str, Any]) -> dict[str, Any]:
        """What is done to pixels: as the tag says, as the preprocessor_config.json beside the weights says, as given."""
        return open_clip_pixels.merged(tag, open_clip_pixels.said_beside(folder_of(self.checkpoint)), vars(self))

    def _crop_pct(self) -> float:
        """What the crop keeps of the resized picture: what the processor beside the weights says, unless resizing was given."""
        said = {} if self.resize_mode is not None else open_clip_pixels.said_beside(folder_of(self.checkpoint))
        return float(said.get("crop_pct", 1.0))

    def _settings(self, net: Any, positions: str | None, crop_pct: float) -> dict[str, Any]:
        """How the weights are run."""
        tower = getattr(net.visual, "trunk", None) or net.visual.transformer
        known = {key: net.visual.preprocess_cfg[key] for key in open_clip_pixels.KEYS}
        known |= {key: [float(number) for number in known[key]] for key in ("mean", "std")}
        known |= {} if crop_pct == 1 else {"crop_pct": crop_pct}
        return {
            "activation": activation_of(tower),
            **known,
            "positions": positions,
            "tokenizer": open_clip_text.beside_digest(self._own_tokenizer(), self.tokenizer),
        }

    def _run_as(self, settings: dict[str, Any]) -> list[str]:
        """A file does not say how it is to be run: what is done with it where nobody said otherwise."""
        notes = [note] if (note := unread_config(self.checkpoint)) else []
        if self.pretrained is not None and (self._folder() is not None or self.name.startswith(HUB)):
            notes.append(f"model.pretrained={self.pretrained} is not used: {self.name} brings its own config")
        if self.checkpoint is None or all(getattr(self, key) is not None for key in ("quick_gelu", *open_clip_pixels.KEYS)):
            return notes
        folder = folder_of(self.checkpoint)
        by = f"the weights {self.pretrained} of {self.name}" if self.pretrained else f"{self.name} without a tag"
        if folder is not None and (model_config(folder) or open_clip_pixels.said_beside(folder)):
            by += " and as the config.json and preprocessor_config.json beside it say"
        quick = "false" if settings["activation"] == "QuickGELU" else "true"
        knobs = {"quick_gelu": quick, "mean": "[...]", "std": "[...]", "interpolation": "NAME", "resize_mode": "NAME"}
        return [
            *notes,
            f"{Path(self.checkpoint).name} is run as {by}: {in_words(settings)}; to run it otherwise: {otherwise(knobs)}, or "
            "model.pretrained=TAG (null: open_clip's defaults)",
        ]

    def _reaching(self) -> AbstractContextManager[None]:
        """For what open_clip fetches to build a model of the hub."""
        return weights.downloading(f"the config of open_clip {self.name}") if self.name.startswith(HUB) else nullcontext()

    def _reaching_texts(self) -> AbstractContextManager[None]:
        """For what transformers fetches to build a text tower of its own."""
        texts = self._config().get("text_cfg", {}).get("hf_model_name")
        local = "model.name=local-dir:FOLDER, whose open_clip_config.json says hf_model_name"
        if texts is None or self.name.startswith(HUB):
            return self._reaching()
        return weights.downloading(f"the text tower {texts} of open_clip {self.name}", local)

    def _config(self) -> dict[str, Any]:
        """The model's config: embed_dim, vision_cfg, text_cfg."""
        if (folder := self._folder()) is not None:  # without open_clip, which takes seconds to import
            return dict(open_clip_files.folder_config(folder))
        import open_clip

        with self._reaching():
            config = open_clip.get_model_config(self.name)
        if config is None:
            raise UserError(f"model.name={self.name}: open_clip has no such model; {open_clip_files.near(self.name)}")
        return dict(config)

    def _tag(self) -> dict[str, Any]:
        """What open_clip knows of the weights that ``pretrained`` names; empty for none."""
        self._config()
        if self.pretrained is None or self._folder() is not None or self.name.startswith(HUB):
            return {}
        import open_clip

        tag = open_clip.get_pretrained_cfg(self.name, self.pretrained)
        if not tag:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(self.name))
            own = "for weights of your own give model.pretrained=null model.checkpoint=FILE"
            has = f"it has {known}" if known else "it has weights for it under no name"
            raise UserError(f"model.pretrained={self.pretrained}: open_clip has no such weights for {self.name}; {has}; {own}.")
        return tag

    def _folder(self) -> Path | None:
        kind, _, rest = self.name.partition(":")
        return {"zoo": ZOO / rest, "local-dir": Path(rest)}.get(kind) if rest else None

    def _open_clip_name(self) -> str:
        folder = self._folder()
        return self.name if folder is None else f"local-dir:{folder}"

    def _local_file(self) -> str | None:
        """The checkpoint on this machine: the one given, or that of the folder; None where it has to be downloaded."""
        folder = self._folder()
        if self.checkpoint is not None or folder is None:
            return self.checkpoint
        there = (folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file())
        return str(next(there, folder / FOLDER_WEIGHTS[0]))

    def _sha256(self) -> str | None:
        """What the checkpoint's sha256 must be: as given, or as the folder says of its own weights."""
        folder = self._folder()
        said = None if folder is None else folder / "model.sha256"
        if self.sha256 is not None or self.checkpoint is not None or said is None or not said.is_file():
            return self.sha256
        return next(iter(said.read_text(encoding="utf-8-sig").split()), "")

    def _downloaded(self, tag: dict[str, Any]) -> str:
        from open_clip.pretrained import download_pretrained, download_pretrained_from_hf

        with weights.downloading(f"the weights of open_clip {self.name} {self.pretrained}"):
            if self.name.startswith(HUB):
                return str(download_pretrained_from_hf(self.name.partition(":")[2]))
            return str(download_pretrained(tag))

    def _tokenizer(self) -> Any:
        with weights.downloading(f"the tokenizer of open_clip {self.name}", "model.tokenizer"):
            return open_clip_text.tokenizer(self._open_clip_name(), self._folder(), self._own_tokenizer(), self._config())

    def _own_tokenizer(self) -> Path | None:
        return open_clip_text.own_tokenizer(self.tokenizer, self.checkpoint, self._config())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning, on the root logger, of random weights: they are loaded next, or were asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
