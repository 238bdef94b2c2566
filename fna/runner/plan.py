"""From a composed config to a plan: everything that can be refused before weights or data are loaded is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omegaconf import DictConfig, OmegaConf

from fna.configs import instantiate, load_option
from fna.errors import UserError
from fna.report.expected import placed, read_figures
from fna.runner.files import digest_texts
from fna.schema import check_knobs
from fna.surgery.plan import parse_layers

if TYPE_CHECKING:
    from fna.data.base import DatasetSource
    from fna.models.base import ModelSource
    from fna.runner.auto import Choice
    from fna.tasks.base import Task

# Where a file lies does not decide a result: its content does, and that is in the digests of weights and data.
PATH_KEYS = frozenset({"root", "checkpoint", "images", "annotations", "cache", "classes", "config", "tokenizer"})
AUTO = "auto"
PROBED = 13  # tokens of the tiny input: CLS and a grid of 3 x 4
PLACEHOLDER = 8  # landmarks of an op whose count is yet to be chosen
GROUPS = ("model", "dataset", "task", "attn", "sampler", "reduce", "mask", "kv", "logger")


class Logger(Protocol):
    """What ``conf/logger/*.yaml`` instantiates."""

    def check(self) -> None:
        """Raise `UserError` where what can be known before the run says that nothing could be logged."""

    def log(self, result: dict[str, Any], config: Any, folder: Path) -> None:
        """Take what the run wrote into ``folder``, of which ``result`` is ``result.json``."""


@dataclass(frozen=True)
class Plan:
    """What one run will do. ``names`` are the chosen options by group; ``op`` is the variant's attention.

    ``choice``: the blocks and counts that ``auto`` came to, once the model is there.
    """

    cfg: DictConfig
    names: dict[str, str]
    dataset: DatasetSource
    model: ModelSource
    task: Task
    op: Any
    mask: Any = None
    logger: Logger | None = None
    choice: Choice | None = None

    def sentence(self) -> str:
        """One line that says what will be done."""
        limit = "all" if self.cfg.limit is None else f"the first {self.cfg.limit}"
        masked = f", mask={self.names['mask']}" if self.mask is not None else ""
        return (
            f"{self.names['task']} on {limit} samples of {self.names['dataset']} with {self.names['model']}: "
            f"full attention against {self.names['attn']} in blocks {self.cfg.layers}, landmarks={self.cfg.landmarks}{masked}"
        )


def prepare(cfg: DictConfig, names: Mapping[str, str]) -> Plan:
    """Check the knobs, build the (cheap) sources and the attention, and try the attention on a tiny input.

    Raises `UserError` for anything that can be known to be wrong without loading weights or reading data.
    """
    check_knobs(cfg)
    if cfg.expected is not None:
        read_figures(cfg.expected)
        cfg.expected = placed(cfg.expected)
    chosen = dict(names)
    _refuse_unbuilt(chosen, cfg)
    OmegaConf.resolve(cfg)
    dataset = instantiate(cfg.dataset)
    dataset.check()
    _resolve_model(cfg, chosen, dataset.domain)
    _check_shape(cfg, chosen)
    model = instantiate(cfg.model)
    model.check()
    op = instantiate(cfg.attn if cfg.landmarks != AUTO else OmegaConf.merge(cfg.attn, {"landmarks": PLACEHOLDER}))
    mask = instantiate(cfg.mask) if cfg.mask and "_target_" in cfg.mask else None
    first = 0 if model.depth is None or cfg.layers == AUTO else parse_layers(cfg.layers, model.depth)[0]
    _probe(op, mask, first)
    if mask is not None and model.depth is not None and getattr(mask, "blocks", "none") != "none":
        parse_layers(mask.blocks, model.depth, "mask.blocks")
    task = instantiate(cfg.task)
    logger = instantiate(cfg.logger) if cfg.logger and "_target_" in cfg.logger else None
    if logger is not None:
        logger.check()
    return Plan(cfg, chosen, dataset, model, task, op, mask, logger)


def _refuse_unbuilt(names: Mapping[str, str], cfg: DictConfig) -> None:
    for group in ("reduce", "kv"):
        if names.get(group, "none") != "none":
            raise UserError(f"{group}={names[group]}: this version runs with {group}=none only.")
    for knob in ("landmarks", "layers"):
        if cfg[knob] == AUTO and "landmarks" not in cfg.attn:
            raise UserError(f"{knob}=auto: attn={names['attn']} has no landmarks to count; leave it out.")
    if AUTO in (cfg.landmarks, cfg.layers) and names.get("mask", "none") != "none":
        raise UserError("landmarks=auto and layers=auto are measured without a mask: give a count and blocks beside mask=...")


def _resolve_model(cfg: DictConfig, names: dict[str, str], domain: str) -> None:
    """Replace a model that only says which weights to take for which kind of data (``by_domain``) by those.

    Keys given on the command line beside ``by_domain`` (``model.checkpoint=FILE``) are handed on.
    """
    if "by_domain" not in cfg.model:
        return
    option = cfg.model.by_domain[domain]
    given = {key: value for key, value in cfg.model.items() if key not in ("_target_", "by_domain") and value is not None}
    names["model"] = option
    cfg.model = OmegaConf.merge(load_option("model", option), given)
    OmegaConf.resolve(cfg)


def _check_shape(cfg: DictConfig, names: Mapping[str, str]) -> None:
    """Refuse blocks and sizes that the model's YAML rules out, before torch is loaded; what it leaves open, building checks."""
    if cfg.model.get("depth") is not None and cfg.layers != AUTO:
        parse_layers(cfg.layers, cfg.model.depth)
    patch = cfg.model.get("patch_size")
    if patch is None or cfg.image_size is None:
        return
    sides = [cfg.image_size] if isinstance(cfg.image_size, int) else list(cfg.image_size)
    if any(side % patch for side in sides):
        near = max(patch, round(sides[0] / patch) * patch)
        raise UserError(f"image_size={cfg.image_size}: {names['model']} has patches of {patch} px; give multiples, such as {near}.")


def _probe(op: Any, mask: Any, layer: int) -> None:
    """Try the attention on a tiny input in block ``layer``; a mask that seeks tokens has found none there."""
    import warnings

    import torch

    from fna.masking.strategy import Masking
    from fna.ops.contract import Site, Tokens, probe

    nothing = torch.zeros(1, PROBED, dtype=torch.bool)
    found = {("found", name): nothing for name in ("massive", "sinks")} if isinstance(mask, Masking) else {}

    tokens = Tokens(prefix=1, grid=(3, 4))
    site = Site(scale=0.5, layer=layer, depth=layer + 1, tokens=tokens, hidden=torch.zeros(1, PROBED, 8), memo=dict(found))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few tokens are fewer than any real count of landmarks
        try:
            probe(op, site, tokens=PROBED)
        except ValueError as error:
            raise UserError(str(error)) from error


def identity(cfg: DictConfig, group: str) -> Any:
    """The resolved node of a group as plain data, without the keys that only say where files lie."""
    return _without_paths(OmegaConf.to_container(cfg[group], resolve=True)) if cfg[group] is not None else None


def model_config(cfg: DictConfig) -> dict[str, Any]:
    """The `identity` of the model's node, with what the folders say that it names: of a tokenizer, of an open_clip config."""
    kind, _, local = str(cfg.model.get("name")).partition(":")
    named = {"tokenizer": cfg.model.get("tokenizer"), "local-dir": local if kind == "local-dir" else None}
    folders = {what: Path(folder) for what, folder in named.items() if folder is not None}
    return identity(cfg, "model") | {what: digest_texts(folder) for what, folder in folders.items()}


def _without_paths(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_paths(value) for key, value in node.items() if key not in PATH_KEYS}
    return [_without_paths(value) for value in node] if isinstance(node, list) else node
