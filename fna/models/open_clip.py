"""CLIP and its relatives through open_clip: an image tower and a text tower into one space."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.errors import UserError
from fna.models import weights
from fna.models.base import Model, Weights, pixels
from fna.ops.contract import Tokens
from fna.surgery.resolution import set_image_size

ZOO = Path(__file__).parent / "zoo"
TEXT_BATCH = 256
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin")
PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class OpenClipModel:
    """An open_clip model by ``name``: a built-in one ("ViT-L-14"), "local-dir:FOLDER" or one of fna's own, "zoo:FOLDER".

    ``pretrained`` is open_clip's tag ("openai"): it decides QuickGELU and preprocessing, and the download. ``checkpoint`` is a
    local file with those weights, so the tag still says how to run them; `null` as tag where they are nobody's. ``quick_gelu``
    overrules the tag. A folder brings its own config (open_clip_config.json), weights (open_clip_model.safetensors) and tokenizer
    (merges.txt.gz), and may say the sha256 of its weights (model.sha256). ``sha256`` refuses any other checkpoint file.
    ``tokenizer``: a folder with a Hugging Face tokenizer, for models such as SigLIP that would fetch theirs.
    """

    name: str
    pretrained: str | None = None
    checkpoint: str | None = None
    random: bool = False
    sha256: str | None = None
    quick_gelu: bool | None = None
    tokenizer: str | None = None
    domain: str = "photographs"
    depth: int | None = None
    patch_size: int | None = None

    @property
    def abilities(self) -> frozenset[str]:
        """Both towers into one space, and nothing else."""
        return frozenset({"encode_image", "encode_text"})

    def check(self) -> None:
        """Raise `UserError` for a missing file or folder, or for no word on where the weights come from."""
        folder = self._folder()
        if folder is not None and not (folder / "open_clip_config.json").is_file():
            raise UserError(f"model.name={self.name}: {folder} holds no open_clip_config.json.")
        weights.check_choice(self.name, bool(self.pretrained or folder), self.checkpoint, self.random)
        if not self.random:
            weights.check_file(self._local_file())

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for weights, sizes and facts that do not fit."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.check()
        size = pixels(image_size)
        if size is not None and self.patch_size is not None:
            _check_multiple(self.name, size, self.patch_size)
        tag = self._tag()
        net, loaded = self._loaded(tag, seed)
        if size is not None:
            set_image_size(net, size)
            net.visual.image_size = net.visual.preprocess_cfg["size"] = size
        tokens, depth, patch = _layout(net.visual, self.name)
        for fact, built in (("depth", depth), ("patch_size", patch)):
            said = getattr(self, fact)
            if said is not None and said != built:
                raise UserError(f"model.{fact}={said}: {self.name} has {built}; give model.{fact}={built} or null.")
        shape = pixels(net.visual.image_size)
        assert shape is not None
        _check_multiple(self.name, shape, patch)
        net = net.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        return Model(
            name=self.name,
            tower=net,
            weights=loaded,
            transform=image_transform_v2(PreprocessCfg(**net.visual.preprocess_cfg), is_train=False),
            image_size=shape,
            tokens=tokens,
            depth=depth,
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            encode_image=net.encode_image,
            encode_text=self._text_encoder(net, torch.device(device)),
        )

    def _loaded(self, tag: dict[str, Any], seed: int) -> tuple[Any, Weights]:
        """The network with its weights, at its own size: open_clip resamples while loading, but cannot in half precision."""
        if self.random:
            with weights.seeded(seed):
                net = self._created(tag, None)
            return net, Weights(f"random (seed {seed})", weights.digest(net.state_dict()), "none")
        local = self._local_file()
        path = local or self._downloaded(tag)
        weights.check_file(path, self._sha256())
        state = weights.read(path)
        digest = weights.digest(state)
        try:
            net = self._created(tag, path)
        except (RuntimeError, KeyError, ValueError) as error:
            problem = weights.misfit(self._created(tag, None).state_dict(), state) or weights.first_line(error)
            raise UserError(f"{path}: does not fit open_clip {self.name}: {problem}.") from error
        source = self.checkpoint or (self.name if local else f"open_clip {self.name} {self.pretrained}")
        return net, Weights(source, digest, self.domain)

    def _created(self, tag: dict[str, Any], path: str | Path | None) -> Any:
        """open_clip's own construction: built-in config or the folder's, QuickGELU and preprocessing as the tag says."""
        import open_clip

        quick = tag.get("quick_gelu", False) if self.quick_gelu is None else self.quick_gelu
        with _quiet():
            net = open_clip.create_model(
                self._open_clip_name(),
                load_weights=False,
                force_quick_gelu=quick,
                force_preprocess_cfg={key: tag[key] for key in PREPROCESS if key in tag},
                pretrained_text=False,
            )
        if path is not None:
            open_clip.load_checkpoint(net, str(path))
        return net

    def _config(self) -> dict[str, Any]:
        """The model's config: embed_dim, vision_cfg, text_cfg."""
        import open_clip

        folder = self._folder()
        config = open_clip.get_model_config(self.name) if folder is None else _folder_config(folder)
        if config is None:
            raise UserError(f"model.name={self.name}: open_clip has no such model; open_clip.list_models() lists them.")
        return dict(config)

    def _tag(self) -> dict[str, Any]:
        """What open_clip knows of the weights that ``pretrained`` names; empty for none."""
        import open_clip

        self._config()
        if self.pretrained is None or self._folder() is not None:
            return {}
        tag = open_clip.get_pretrained_cfg(self.name, self.pretrained)
        if not tag:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(self.name)) or "none"
            raise UserError(f"model.pretrained={self.pretrained}: open_clip has no such weights for {self.name}; it has {known}.")
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
        return said.read_text(encoding="utf-8").split()[0]

    def _downloaded(self, tag: dict[str, Any]) -> str:
        from open_clip.pretrained import download_pretrained

        with weights.downloading(f"the weights of open_clip {self.name} {self.pretrained}"):
            return str(download_pretrained(tag))

    def _text_encoder(self, net: Any, device: torch.device) -> Callable[[Sequence[str]], Tensor]:
        """Sentences to vectors ``[T, E]`` in pieces of a fixed size; the tokenizer is made when first needed."""
        made: list[Any] = []

        def encode(sentences: Sequence[str]) -> Tensor:
            if not made:
                made.append(self._tokenizer())
            pieces = [list(sentences[start : start + TEXT_BATCH]) for start in range(0, len(sentences), TEXT_BATCH)]
            return torch.cat([net.encode_text(made[0](piece).to(device)) for piece in pieces])

        return encode

    def _tokenizer(self) -> Any:
        import open_clip

        folder = self._folder()
        merges = None if folder is None else folder / "merges.txt.gz"
        options = {"bpe_path": str(merges)} if merges is not None and merges.is_file() else {}
        with weights.downloading(f"the tokenizer of open_clip {self.name}", "model.tokenizer"):
            if self.tokenizer is not None:
                text = self._config()["text_cfg"]
                return open_clip.HFTokenizer(self.tokenizer, text.get("context_length", 77), **text.get("tokenizer_kwargs", {}))
            return open_clip.get_tokenizer(self._open_clip_name(), **options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning, on the root logger, of random weights: they are loaded next, or were asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _folder_config(folder: Path) -> Any:
    path = folder / "open_clip_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no open_clip config ({weights.first_line(error)}); it must hold model_cfg.") from error


def openai_templates() -> list[Callable[[str], str]]:
    """The 80 sentences of the CLIP paper for ImageNet classes, each a function of the class name."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return list(OPENAI_IMAGENET_TEMPLATES)


def _check_multiple(name: str, size: tuple[int, int], patch: int) -> None:
    if any(side % patch or side < patch for side in size):
        raise UserError(f"image_size={list(size)}: {name} has patches of {patch} px; give multiples of {patch}.")


def _layout(visual: Any, name: str) -> tuple[Tokens, int, int]:
    """Token layout, number of blocks and patch size of an image tower, open_clip's own or timm's."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        grid = tuple(trunk.patch_embed.grid_size)
        return Tokens(prefix=trunk.num_prefix_tokens, grid=grid), len(trunk.blocks), trunk.patch_embed.patch_size[0]
    if hasattr(visual, "transformer") and hasattr(visual, "grid_size"):
        grid = tuple(visual.grid_size)
        return Tokens(prefix=1, grid=grid), len(visual.transformer.resblocks), visual.patch_size[0]
    raise UserError(f"model.name={name}: its image tower is no vision transformer; choose a ViT.")
