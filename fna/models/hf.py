"""Any image encoder of transformers, from a folder that save_pretrained made or from the hub, run by transformers itself."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from fna.errors import UserError
from fna.models import weights
from fna.models.base import Model, Weights, pixels
from fna.models.beside import filled, followed
from fna.models.checkpoint_files import load
from fna.models.checkpoint_paths import part_of_several, refuse_adapter, weights_file
from fna.models.checkpoints import unpack
from fna.models.heads import labels, listed, read_classes, trained_note
from fna.models.hf_classes import class_for, config_of, fetched, usual_steps, usually
from fna.models.hf_files import PROCESSORS, folder_of, preprocessing
from fna.models.hf_pixels import described, sized_note, transform
from fna.models.hf_runs import Runs, fitted, show_all
from fna.models.hf_texts import PairTexts
from fna.models.settings import has_table, in_words, otherwise, resampling_note
from fna.models.text import texts_digest
from fna.ops.contract import Tokens
from fna.surgery.blocks import find_tower
from fna.surgery.found import pair
from fna.surgery.resolution import set_image_size
from fna.values import Channels, Domain, Spreads, check_fields, counted

# model_type -> the class without a head, the one with a classifier, and mean and std where no processor says them.
HALF = ([0.5] * 3, [0.5] * 3)
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
KNOWN: dict[str, tuple[str, str | None, tuple[list[float], list[float]]]] = {
    "clip": ("CLIPModel", "CLIPForImageClassification", CLIP),
    "clip_vision_model": ("CLIPVisionModelWithProjection", None, CLIP),
    "siglip": ("SiglipModel", "SiglipForImageClassification", HALF),
    "siglip_vision_model": ("SiglipVisionModel", None, HALF),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification", IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification", IMAGENET),
}


@dataclass(frozen=True)
class HuggingFaceModel:
    """A model by ``name`` (a folder with config.json and weights, or a name of the hub) or ``checkpoint`` (such a folder, or the
    file of weights in it).

    Pixels are treated as the folder's preprocessor_config.json says, which ``mean std interpolation`` overrule. ``tokenizer``: a
    folder with a Hugging Face tokenizer where the folder has none. ``classes``: a TSV of class id and name in the order of the
    head's rows; else the config's names. ``part``: which of several sets of weights in the file. ``random``: weights drawn from
    the seed for that config. transformers resamples positions in its own way, without antialiasing.
    """

    name: str | None = None
    checkpoint: str | None = None
    random: bool = False
    sha256: str | None = None
    part: str | None = None
    tokenizer: str | None = None
    classes: str | None = None
    mean: Channels | None = None
    std: Spreads | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    domain: Domain = "photographs"

    def check(self) -> None:
        """Raise `UserError` for a folder that is not there, holds no weights, or is of a kind that fna does not know."""
        check_fields(self, "model")
        weights.check_random(self.random, sha256=self.sha256, part=self.part)
        if self.name is not None and self.checkpoint is not None:
            raise UserError(f"model.name={self.name} model.checkpoint={self.checkpoint}: both say which folder; give one of them.")
        if self.checkpoint and (not self._folder.is_dir() or not Path(self.checkpoint).exists()):
            raise UserError(
                f"{self.checkpoint}: no such checkpoint; model=hf takes a folder on this machine (config.json and weights): "
                "model.checkpoint=FOLDER."
            )
        for key, able in (("tokenizer", "encode_text"), ("classes", "classify")):
            if getattr(self, key) is not None and able not in (self.abilities or {able}):
                what = "reads no texts" if key == "tokenizer" else "has no head whose rows it could name"
                raise UserError(f"model.{key}={getattr(self, key)}: {self._class_name} {what}; leave it out.")
        _ = self._class_name
        preprocessing(self._folder)
        if not self.random:
            weights.check_file(self._where, self.sha256)
        if self.classes is not None:
            read_classes(self.classes)

    @property
    def depth(self) -> int | None:
        """Blocks of the image tower, as the config says."""
        found = self._vision.get("num_hidden_layers")
        return found if isinstance(found, int) else None

    @property
    def patch_size(self) -> int | None:
        """Pixels of a patch's side, as the config says."""
        found = self._vision.get("patch_size")
        return found if isinstance(found, int) else None

    @property
    def abilities(self) -> frozenset[str] | None:
        """By the class of the model that the config names; None where there is no such config (`check` says so)."""
        try:
            name = self._class_name
        except UserError:
            return None
        further = {"encode_text"} if self._is_pair else {"classify"} if "ForImageClassification" in name else set()
        return frozenset({"encode_image", "patches"} | further)

    def build(self, *, image_size: int | tuple[int, int] | None, device: str, dtype: str, seed: int) -> Model:
        """The model in eval mode on ``device``. Raises `UserError` for weights, sizes and files that do not fit."""
        self.check()
        net, loaded, notes = self._loaded(seed)
        notes += show_all(net)
        tower = find_tower(net)
        own = pixels(self._own_size(tower))
        assert own is not None
        size = pixels(image_size) or own
        options = set_image_size(net, size) if size != own else {}
        if size != own and tower.grid is not None and self.patch_size and has_table(tower):
            grid = size[0] // self.patch_size, size[1] // self.patch_size
            notes.append(
                resampling_note(
                    tower.grid,
                    grid,
                    "transformers",
                    "timm's with this checkpoint in a model= of timm or open_clip: dinov2, vit, clip_l14",
                )
            )
        net = net.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
        steps = self._steps()
        settings = self._settings(steps)
        notes += self._run_as(settings) + tower.notes()
        notes += sized_note(preprocessing(self._folder), own) if image_size is None else []
        notes += trained_note(self._config) if "classify" in (self.abilities or ()) else []
        run = Runs(net, tower.prefix, options)
        able = self.abilities or frozenset()
        rows = net.config.num_labels if "classify" in able else 0
        names = listed(self.classes, rows) if self.classes is not None else (None, labels(self._config, rows))
        texts = PairTexts(net, self._tokenizer_folder, torch.device(device)) if "encode_text" in able else None
        return Model(
            name=self._class_name,
            tower=net,
            weights=loaded,
            transform=transform(steps, size),
            image_size=size,
            tokens=Tokens(prefix=tower.prefix, grid=_grid(size, own, tower.grid)),
            depth=len(tower.blocks),
            device=torch.device(device),
            dtype=getattr(torch, dtype),
            classify=run.classify if "classify" in able else None,
            encode_image=run.encode_image,
            encode_text=texts.encode if texts else None,
            cut_texts=texts.cut if texts else None,
            spelt_texts=texts.spelt if texts else None,
            patches=run.patches,
            class_ids=names[0],
            classes=names[1],
            notes=notes,
            settings=settings,
        )

    @cached_property
    def _folder(self) -> Path:
        if self.name is None and self.checkpoint is None:
            raise UserError(
                "model=hf has no weights: give a folder that save_pretrained made with model.checkpoint=FOLDER, or with "
                "model.name=, which takes a name of the hub too."
            )
        path = Path(self._where)
        if path.is_dir():
            refuse_adapter(path)
        return folder_of(path) or path.parent

    @cached_property
    def _where(self) -> str:
        """The folder or file of weights on this machine; what the hub has is fetched, or found where it was fetched to."""
        if self.checkpoint is not None or self.name is None or Path(self.name).exists():
            return str(self.checkpoint or self.name)
        return fetched(self.name)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return config_of(self._folder)

    @property
    def _vision(self) -> dict[str, Any]:
        """The settings of the image tower, with what config.json leaves to transformers' defaults."""
        if not self._is_known:
            return dict(self._made.vision_config.to_dict() if hasattr(self._made, "vision_config") else self._made.to_dict())
        whole = filled(self._config, self._folder / "config.json")
        return dict(whole.get("vision_config") or whole)

    @cached_property
    def _class_name(self) -> str:
        """The class of transformers for this folder. Raises `UserError` for one that fna does not know."""
        kind = str(self._config.get("model_type"))
        if not self._is_known:
            return class_for(self._config, self._folder / "config.json")
        plain, headed, _ = KNOWN[kind]
        said = (self._config.get("architectures") or [plain])[0]
        vision = kind.endswith("_vision_model") and said in (f"{plain}", plain.removesuffix("WithProjection"))
        return said if said == headed or vision else plain

    @property
    def _is_known(self) -> bool:
        """Whether a row here says how that kind is usually run."""
        return str(self._config.get("model_type")) in KNOWN

    @property
    def _is_pair(self) -> bool:
        """Whether images and texts meet in one space."""
        import transformers

        return hasattr(getattr(transformers, self._class_name), "get_text_features")

    @cached_property
    def _made(self) -> Any:
        """The settings with what config.json leaves to transformers' defaults."""
        import transformers

        cls: Any = getattr(transformers, self._class_name)
        with followed(self._folder / "config.json", self._class_name):
            return cls.config_class.from_dict(dict(self._config))

    def _loaded(self, seed: int) -> tuple[Any, Weights, list[str]]:
        import transformers

        cls: Any = getattr(transformers, self._class_name)
        config = copy.deepcopy(self._made)  # a model changes its own, and may be built again
        with followed(self._folder / "config.json", self._class_name), weights.seeded(seed):
            net = cls(config)
        if self.random:
            return net, Weights(f"random (seed {seed})", weights.digest(net.state_dict()), "none"), []
        path = weights_file(self._where)
        found = unpack(load(path), net.state_dict().keys(), path, self.part)
        if whole := weights.whole_numbers(net.state_dict(), found.state):
            raise UserError(f"{path}: does not fit the {self._class_name} of its config.json: {whole}.")
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.state.items()}
        net, problem, unused = fitted(cls, config, state, dict(net.state_dict()))
        if problem:
            raise UserError(f"{path}: does not fit the {self._class_name} of its config.json: {problem}{part_of_several(path)}.")
        notes = [said] if (said := found.note(path)) else []
        if unused:
            taken = f"{self._class_name} of its config.json"
            notes.append(f"{path}: {counted(len(unused), 'tensor')} of it not used by the {taken} (first: {unused[0]})")
        source = self._where if self.name is None else self.name
        return net, Weights(source, weights.digest(net.state_dict()), self.domain), notes

    def _own_size(self, tower: Any) -> Any:
        said = pair(self._vision.get("image_size"))
        if said is None and tower.grid is None:
            raise UserError(
                f"{self._folder / 'config.json'}: a {self._class_name} takes patches that its own processor cuts, of no fixed "
                "size, or videos: model=hf runs images of one size; use fna.swap on the model in your own code."
            )
        return said or [side * (self.patch_size or 1) for side in tower.grid]

    def _steps(self) -> dict[str, Any]:
        """What is done to pixels: as that kind usually has it, as the folder says, as given."""
        kind = str(self._config["model_type"])
        given = {key: getattr(self, key) for key in ("mean", "std", "interpolation") if getattr(self, key) is not None}
        if not self._is_known:
            return usual_steps(kind) | preprocessing(self._folder) | given
        mean, std = KNOWN[kind][2]
        usual = {"mean": mean, "std": std, "interpolation": "bicubic", "crop": None}
        usual["resize"] = [1, 1] if kind.startswith("siglip") else None
        return usual | preprocessing(self._folder) | given

    def _settings(self, steps: dict[str, Any]) -> dict[str, Any]:
        """How the weights are run; the config's digest stands for what tensors do not show, as the number of heads."""
        return {
            "activation": self._vision.get("hidden_act"),
            **described(steps),
            "tokenizer": texts_digest(self._tokenizer_folder) if self._is_pair else None,
            **({"texts": "padding hidden"} if self._is_pair and not self._is_known else {}),  # it was seen, in rows of before
            "architecture": hashlib.sha256(json.dumps(self._config, sort_keys=True).encode()).hexdigest()[:12],
        }

    def _run_as(self, settings: dict[str, Any]) -> list[str]:
        """Where no processor beside the weights says so, pixels are treated as that kind of model usually wants them."""
        beside = preprocessing(self._folder)
        unsaid = [key for key in ("mean", "std", "interpolation") if key not in beside and getattr(self, key) is None]
        if not unsaid:
            return []
        knobs = {key: "NAME" if key == "interpolation" else "[...]" for key in unsaid}
        lacks = f"{PROCESSORS[0]} says no {', '.join(unsaid)}" if beside else f"no {PROCESSORS[0]} beside the weights"
        return [
            f"{self._folder}: {lacks}; they are run {usually(str(self._config['model_type']))}: "
            f"{in_words(settings)}; to run them otherwise: {otherwise(knobs)}"
        ]

    @property
    def _tokenizer_folder(self) -> Path:
        return self._folder if self.tokenizer is None else Path(self.tokenizer)


def _grid(size: tuple[int, int], own: tuple[int, int], grid: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if grid is None else (size[0] * grid[0] // own[0], size[1] * grid[1] // own[1])
