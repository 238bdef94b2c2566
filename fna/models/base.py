"""What the rest of fna knows of a model: its tower, its tokens, its transform and what it can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from fna.models.settings import in_words
from fna.ops.contract import Tokens

# The fields of a `Model` that are None where it cannot do that.
ABILITIES = ("classify", "encode_image", "encode_text", "patches", "decoder", "answer")


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model that goes on with text: ``net`` with ``generate`` as transformers has it, and its tokenizer."""

    net: Any
    tokenizer: Any


@dataclass(frozen=True)
class Weights:
    """Where a model's weights came from.

    ``source``: a path, a hub tag or "random (seed 0)", as printed at the start of a run. ``digest``: sha256 of the tensors'
    content (names, shapes, dtypes, bytes), the same wherever the file lies. ``domain``: what they were trained on, "photographs",
    "generated" (drawn scenes) or "none" (random).
    """

    source: str
    digest: str
    domain: str


@dataclass
class Model:
    """A network ready to run in eval mode on its device.

    ``tower`` is the module whose blocks `fna.swap` reaches (for CLIP the whole model or its visual tower). ``transform`` maps a
    PIL image to float ``[3, h, w]``. What the model cannot do is None: ``classify`` ``[B, 3, h, w] -> [B, C]`` logits,
    ``encode_image`` ``[B, 3, h, w] -> [B, E]``, ``encode_text`` list of str ``-> [T, E]`` (neither normalised), ``patches`` ``[B,
    3, h, w] -> [B, rows * columns, D]`` dense features, ``decoder`` what writes text, ``answer`` what is asked about images.
    ``cut_texts`` gives those of some sentences that are too long for the text tower, with the tokens that it reads.
    ``spelt_texts`` gives those in a script of which its vocabulary has no words.
    ``classes`` are the head's class names in its order, ``class_ids`` (WordNet ids, say) likewise; None where unknown.
    ``config``: the settings it was built with beside its weights, empty where nobody said. ``settings``: how the weights are run
    (activation, mean and std of pixels, interpolation, ...). ``counted``: how many tokens an image has, where that was seen.
    ``no_head``: of a head in the file that the model does without, why.
    """

    name: str
    tower: nn.Module
    weights: Weights
    transform: Callable[[Image.Image], Tensor]
    image_size: tuple[int, int]
    tokens: Tokens
    depth: int
    device: torch.device
    dtype: torch.dtype
    classify: Callable[[Tensor], Tensor] | None = None
    encode_image: Callable[[Tensor], Tensor] | None = None
    encode_text: Callable[[Sequence[str]], Tensor] | None = None
    cut_texts: Callable[[Sequence[str]], Mapping[str, tuple[int, ...]]] | None = None
    spelt_texts: Callable[[Sequence[str]], list[str]] | None = None
    patches: Callable[[Tensor], Tensor] | None = None
    decoder: Decoder | None = None
    answer: Any = None
    classes: Sequence[str] | None = None
    class_ids: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    counted: int | None = None
    no_head: str = ""

    @property
    def writes(self) -> bool:
        """Whether it writes text, and has a cache to compress."""
        return self.decoder is not None or self.answer is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this model from any other wherever something of it is kept: all but the size of its images."""
        return {"weights": self.weights.digest, "config": self.config, "settings": self.settings, "dtype": str(self.dtype)}

    @property
    def weights_line(self) -> str:
        """Where the weights come from and how they are run, for the start of a run."""
        run_as = f", run with {in_words(self.settings)}" if self.settings else ""
        return f"{self.weights.source} ({self.weights.digest[:12]}){run_as}"

    @property
    def token_count(self) -> int:
        """Tokens of one image: as counted, else prefix + grid + suffix."""
        rows, columns = self.tokens.grid or (0, 0)
        return self.counted or self.tokens.prefix + rows * columns + self.tokens.suffix

    @property
    def told_tokens(self) -> int | None:
        """Tokens of one image, to be shown; None where nothing says how many (any size, texts, a module without a grid)."""
        return self.token_count if self.counted or self.tokens.grid else None


def pixels(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """An ``image_size`` as (rows, columns); one number, alone or in a list, is a square, None stays None."""
    if image_size is None:
        return None
    sides = [image_size] if isinstance(image_size, int) else image_size
    return int(sides[0]), int(sides[-1])


class ModelSource(Protocol):
    """What ``conf/model/*.yaml`` instantiates: cheap to make, loads nothing until `build`.

    ``depth`` and ``patch_size`` are None where they are not known before building; they let a wrong ``layers`` or ``image_size`` be
    refused at once. `check` raises `UserError` for what can be seen without loading (a missing checkpoint file).
    ``abilities``: which of `ABILITIES` the built model will have, None where that is not known before building.
    """

    depth: int | None
    patch_size: int | None

    @property
    def abilities(self) -> frozenset[str] | None: ...

    def check(self) -> None: ...

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model: ...
