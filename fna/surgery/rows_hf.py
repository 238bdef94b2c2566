"""What the structure of a transformers tower can't tell of its tokens, a row a class of blocks, as read in release 5.23.

Without a row attention can be swapped all the same, with no prefix known; ``prefix=`` of `fna.swap` says what a row would. The
pieces of a block are in `fna.surgery.spec`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fna.surgery.found import Stack


@dataclass(frozen=True)
class Row:
    """``prefix`` tokens stand before the patches, and as many more as ``further`` of the config says. ``rotary``: whether its
    positions are turned into q and k. ``main``: the last name in the path of the stack that is meant where a model has several.
    ``read``: the class that says so, in the library's own file.
    """

    prefix: int
    read: str
    further: str | None = None
    rotary: bool = False
    main: str | None = None

    def tokens(self, config: Any) -> int:
        """Tokens before the patches, for these settings."""
        return self.prefix + (int(getattr(config, self.further, 0) or 0) if self.further else 0)


ROWS: dict[str, Row] = {
    "Aimv2EncoderLayer": Row(0, "Aimv2VisionEmbeddings"),
    "BeitLayer": Row(1, "BeitEmbeddings"),  # adds its bias between the pieces
    "CLIPEncoderLayer": Row(1, "CLIPVisionEmbeddings"),
    "ChineseCLIPVisionLayer": Row(1, "ChineseCLIPVisionEmbeddings"),
    "DINOv3ViTLayer": Row(1, "DINOv3ViTEmbeddings", further="num_register_tokens", rotary=True),
    "DPTViTLayer": Row(1, "DPTViTEmbeddings"),
    "DeiTLayer": Row(2, "DeiTEmbeddings"),
    "Dinov2Layer": Row(1, "Dinov2Embeddings"),
    "Dinov2WithRegistersLayer": Row(1, "Dinov2WithRegistersEmbeddings", further="num_register_tokens"),
    "IJepaLayer": Row(0, "IJepaEmbeddings"),
    "Idefics3EncoderLayer": Row(0, "Idefics3VisionEmbeddings"),
    "InternVLVisionLayer": Row(1, "InternVLVisionEmbeddings"),
    "LlamaDecoderLayer": Row(0, "LlamaModel", rotary=True),
    "MLCDEncoderLayer": Row(1, "MLCDVisionEmbeddings", rotary=True),
    "MetaClip2EncoderLayer": Row(1, "MetaClip2VisionEmbeddings"),
    "PixioLayer": Row(0, "PixioEmbeddings", further="n_cls_tokens"),
    "Sapiens2Layer": Row(1, "Sapiens2Embeddings", further="num_register_tokens", rotary=True),
    "Siglip2EncoderLayer": Row(0, "Siglip2VisionEmbeddings"),
    "SiglipEncoderLayer": Row(0, "SiglipVisionEmbeddings"),
    "SmolVLMEncoderLayer": Row(0, "SmolVLMVisionEmbeddings"),
    "VJEPA2Layer": Row(0, "VJEPA2Embeddings", rotary=True, main="encoder"),
    "ViTLayer": Row(1, "ViTEmbeddings"),
    "ViTMAELayer": Row(1, "ViTMAEEmbeddings"),
    "ViTMSNLayer": Row(1, "ViTMSNEmbeddings"),
    "VideoMAELayer": Row(0, "VideoMAEEmbeddings"),
    "VivitLayer": Row(1, "VivitEmbeddings"),
    "MllamaVisionEncoderLayer": Row(1, "MllamaVisionModel", main="transformer"),
    "YolosLayer": Row(1, "YolosEmbeddings"),  # its detection tokens stand behind the patches
}


def prefix_of(stack: Stack) -> int:
    """Tokens before the patches; none where no row says so, and of texts."""
    row = ROWS.get(stack.made_of)
    return row.tokens(stack.config) if row is not None and stack.vision else 0


def turned(stack: Stack) -> bool:
    """Whether positions are turned into q and k: yes, where no row says otherwise."""
    row = ROWS.get(stack.made_of)
    return row is None or row.rotary


def main_name(stack: Stack) -> str | None:
    """What the module of that stack is called that is meant where a model holds several; None where nobody said."""
    row = ROWS.get(stack.made_of)
    return None if row is None else row.main


def tokens_said(stack: Stack) -> str:
    """How many tokens go through it, as its settings say, in words."""
    if stack.grid is not None:
        return f"{math.prod(stack.grid) + prefix_of(stack)} tokens"
    most = getattr(stack.config, "max_position_embeddings", None) if not stack.vision else None
    return "a number of tokens that its settings don't say" if most is None else f"{most} tokens"
