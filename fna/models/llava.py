"""Vision-language models of transformers: LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL, SmolVLM, from a folder or the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from fna.errors import UserError
from fna.models import weights
from fna.models.base import Model, Weights, pixels
from fna.models.checkpoint_paths import refuse_adapter
from fna.models.hf_files import read_json
from fna.models.hf_folder import identified, pretrained, reading
from fna.models.vlm_prompts import Style, Turn, prompt
from fna.ops.contract import Tokens
from fna.records import refuse_mark
from fna.surgery.blocks import find_tower
from fna.surgery.cache import check_decoder, find_decoder
from fna.values import Domain, check_fields

ZOO = Path(__file__).parent / "zoo"
KNOWN = ("llava", "llava_next", "qwen2_5_vl", "smolvlm", "idefics3")
SHARDS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Talk:
    """A vision-language model ready to be asked: ``net`` in eval mode, its ``processor``, and the words around a question.

    ``pad``: whether pictures are first made square with a margin of the processor's mean colour.
    """

    net: Any
    processor: Any
    style: Style
    pad: bool = False

    def inputs(self, pictures: Sequence[Sequence[Image.Image]], talks: Sequence[Sequence[Turn]]) -> dict[str, Tensor]:
        """What ``net`` takes for a batch of conversations, each with its own pictures; padded on the left.

        Raises `UserError` where the model's processor cannot place so many pictures.
        """
        texts = [prompt(self.style, self.processor, talk, len(seen)) for seen, talk in zip(pictures, talks, strict=True)]
        mean = self.processor.image_processor.image_mean if self.pad else None
        flat = [[squared(picture.convert("RGB"), mean) for picture in seen] for seen in pictures]
        nested = type(self.processor).__name__.startswith(("SmolVLM", "Idefics3"))
        shown: Any = flat if nested else [picture for seen in flat for picture in seen]
        self.processor.tokenizer.padding_side = "left"
        try:
            made = self.processor(text=texts, images=shown or None, padding=True, return_tensors="pt")
        except ValueError as error:  # each processor counts in its own words
            raise UserError(f"{type(self.processor).__name__}: {weights.first_line(error)}.") from error
        device, dtype = self.net.device, self.net.dtype
        return {
            key: (x.to(device, dtype) if x.is_floating_point() else x.to(device))
            for key, x in made.items()
            if isinstance(x, Tensor)
        }

    def text(self, ids: Tensor) -> list[str]:
        """Generated ids ``[B, T]`` as text, without what is no word."""
        return [told.strip() for told in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def fresh(self) -> None:
        """Forget the last conversation: Qwen2.5-VL keeps the offset of its positions on itself."""
        inner: Any = getattr(self.net, "model", None)
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None


@dataclass(frozen=True)
class VisionLanguageModel:
    """A model by ``checkpoint``: a folder that save_pretrained made, a name on the hub, or "zoo:NAME" for an embedded one.

    ``prompt``: see `fna.models.vlm_prompts`. ``pad``: pictures are made square before the processor sees them, as LLaVA-1.5's
    authors do; its processor in transformers crops the middle instead. ``bits``: 8 loads the decoder's weights in
    8 bits, where bitsandbytes is there. ``random``: weights drawn from the seed for that config.
    """

    checkpoint: str | None = None
    random: bool = False
    prompt: Style = "template"
    pad: bool = False
    bits: Literal[8] | None = None
    domain: Domain = "photographs"

    patch_size: ClassVar[None] = None

    @property
    def depth(self) -> int | None:
        """Blocks of the vision tower, which ``layers`` counts, as a local folder's config says."""
        if self.checkpoint is None or self._local is None:
            return None
        return _depth(self._config.get("vision_config") or {})

    @property
    def abilities(self) -> frozenset[str]:
        """It answers questions about images, and nothing else."""
        return frozenset({"answer"})

    def check(self) -> None:
        """Raise `UserError` for weights that are not there, or a kind of model, attention or platform that cannot do it."""
        check_fields(self, "model")
        if self.checkpoint is None:
            raise UserError("model has no weights: give model.checkpoint=FOLDER (config, weights, processor) or a name on the hub.")
        if self.bits is not None:
            _check_bits()
        if self._local is None:
            weights.check_published(f"model.checkpoint={self.checkpoint}", self.checkpoint, ("config.json",))
            return
        _ = self._config
        if not self.random and not any((self._local / name).is_file() for name in SHARDS):
            raise UserError(f"{self._local}: holds no weights ({', '.join(SHARDS[:2])}); save_pretrained writes them.")

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for weights and files that do not fit."""
        self.check()
        if image_size is not None:
            raise UserError(
                f"image_size={image_size}: a vision-language model's processor sizes its images; leave it out (or take kv=resize)."
            )
        with reading(self._local, str(self.checkpoint)):
            net, loaded = self._loaded(device, getattr(torch, dtype), seed)
            processor = self._processor()
        check_decoder(find_decoder(net).config)
        talk = Talk(net, processor, self.prompt, self.pad)
        vision = net.config.vision_config
        side, patch = getattr(vision, "image_size", None), int(vision.patch_size)
        size = pixels(side) or (patch, patch)
        grid = (size[0] // patch, size[1] // patch)
        return Model(
            name=type(net).__name__,
            tower=net,
            weights=loaded,
            transform=_untouched,
            image_size=size,
            tokens=Tokens(prefix=0, grid=grid if side else None),
            depth=_depth(vision.to_dict()) or len(find_tower(net).blocks),
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            answer=talk,
            config={"bits": self.bits, "pad": self.pad},
            settings={
                "prompt": _digest(self._asked(processor)),
                "processor": _digest(_settings(processor)),
                **identified(net, processor.tokenizer),
            },
        )

    def _asked(self, processor: Any) -> str:
        """How a question is put; of a template all that it may say, in later turns too."""
        own = str(processor.chat_template or processor.tokenizer.chat_template) if self.prompt == "template" else ""
        return prompt(self.prompt, processor, [("?", None)]) + own

    @cached_property
    def _local(self) -> Path | None:
        """The folder, None where it is a name on the hub. Raises `UserError` for a path that is not there."""
        assert self.checkpoint is not None
        kind, _, name = self.checkpoint.partition(":")
        path = ZOO / name if kind == "zoo" and name else Path(self.checkpoint).expanduser()
        if path.is_dir():
            refuse_adapter(path)
            refuse_mark(path, "transformers")
            return path
        if kind == "zoo" or len(path.parts) != 2 or path.is_absolute() or path.exists():
            raise UserError(
                f"model.checkpoint={self.checkpoint}: no folder on this machine and no name on the hub (OWNER/MODEL); give the "
                "folder that save_pretrained made."
            )
        return None

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        """config.json of a local folder. Raises `UserError` for a model that fna cannot ask."""
        assert self._local is not None
        config = read_json(self._local / "config.json")
        kind = config.get("model_type")
        if kind not in KNOWN:
            raise UserError(
                f"{self._local / 'config.json'}: model_type is {kind}, no vision-language model that fna knows; it knows "
                f"{', '.join(KNOWN)}{_converted(str(kind))}."
            )
        return config

    def _loaded(self, device: str, dtype: torch.dtype, seed: int) -> tuple[Any, Weights]:
        import transformers

        where = str(self._local or self.checkpoint)
        if self.random:
            with weights.seeded(seed):
                net = transformers.AutoModelForImageTextToText.from_config(
                    transformers.AutoConfig.from_pretrained(where), dtype=dtype
                )
            source, domain = f"random (seed {seed})", "none"
        else:
            options: dict[str, Any] = (
                {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)} if self.bits else {}
            )
            kind = transformers.AutoModelForImageTextToText
            net = pretrained(kind, where, dtype=dtype, attn_implementation="sdpa", **options)
            source, domain = str(self.checkpoint), self.domain
        net = net.eval().requires_grad_(False)
        net = net if self.bits else net.to(device)
        return net, Weights(source, weights.digest(net.state_dict()), domain)

    def _processor(self) -> Any:
        import transformers

        where = str(self._local or self.checkpoint)
        try:
            return transformers.AutoProcessor.from_pretrained(where)
        except (OSError, ValueError, ImportError) as error:  # each kind of processor has its own
            raise UserError(
                f"{where}: its processor cannot be read ({weights.first_line(error)}); the folder needs a tokenizer and an image "
                "processor."
            ) from error


def _converted(kind: str) -> str:
    """Where to find weights that are laid out as LLaVA's authors do, not as transformers does; empty for other kinds."""
    theirs = re.fullmatch(r"llava_(llama|mistral|mixtral|mpt|qwen\d?)", kind)
    return "; this is the layout of LLaVA's authors, and llava-hf on the hub has the same weights in the other" if theirs else ""


def _depth(vision: Mapping[str, Any]) -> int | None:
    """Blocks of a vision tower by its settings; None where they leave it to transformers."""
    found = vision.get("num_hidden_layers", vision.get("depth"))
    return found if isinstance(found, int) else None


def _check_bits() -> None:
    """Raise `UserError` where 8 bits cannot be had."""
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise UserError("model.bits=8: needs bitsandbytes and a GPU; leave it out, and take dtype=bfloat16 for half the memory.")


def squared(picture: Image.Image, mean: Sequence[float] | None) -> Image.Image:
    """``picture`` in the middle of a square of ``mean`` (channels in 0..1); as it is where that is None."""
    if mean is None or picture.width == picture.height:
        return picture
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _untouched(image: Image.Image) -> Tensor:
    """Pixels as they are, ``[3, h, w]`` in 0..1: the processor does the rest."""
    from torchvision.transforms.functional import to_tensor

    return to_tensor(image.convert("RGB"))


def _settings(processor: Any) -> str:
    """How images are made into pixels."""
    return json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
