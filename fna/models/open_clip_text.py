"""The text side of an open_clip model: which tokenizer reads, and the sentences around class names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fna.models.hf_files import folder_of
from fna.models.text import TOKENIZER_FILES, texts_digest
from fna.records import refuse_mark


def tokenizer(name: str, folder: Path | None, own: Path | None, config: Mapping[str, Any]) -> Any:
    """The Hugging Face tokenizer in ``own``, else open_clip's of the model ``name`` with the merges that its ``folder`` brings."""
    import open_clip

    if own is not None:
        refuse_mark(own, "transformers")
        text = config["text_cfg"]
        return open_clip.HFTokenizer(str(own), text.get("context_length", 77), **text.get("tokenizer_kwargs", {}))
    merges = None if folder is None else folder / "merges.txt.gz"
    options = {"bpe_path": str(merges)} if merges is not None and merges.is_file() else {}
    return open_clip.get_tokenizer(name, **options)


def own_tokenizer(given: str | None, checkpoint: str | None, config: Mapping[str, Any]) -> Path | None:
    """The folder of a Hugging Face tokenizer: the one given, or that of the checkpoint where open_clip would fetch one."""
    if given is not None:
        return Path(given)
    folder = folder_of(checkpoint)
    wanted = folder is not None and "hf_tokenizer_name" in config["text_cfg"]
    return folder if folder is not None and wanted and any((folder / name).is_file() for name in TOKENIZER_FILES) else None


def beside_digest(own: Path | None, given: str | None) -> str | None:
    """What tells the tokenizer beside the checkpoint from another one; None where there is none, or where it was given."""
    return None if own is None or given is not None else texts_digest(own)


def openai_templates() -> list[Callable[[str], str]]:
    """The 80 sentences of the CLIP paper for ImageNet classes, each a function of the class name."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return list(OPENAI_IMAGENET_TEMPLATES)
