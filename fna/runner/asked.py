"""Stage 1, what the command line says: composed, resolved and checked, before weights or data are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omegaconf import DictConfig, OmegaConf

from fna.configs import instantiate, load_option
from fna.errors import UserError
from fna.options import UNUSED
from fna.report.expected import placed, read_figures
from fna.runner.chosen import counted
from fna.runner.env import choose_device
from fna.runner.settings import by_knob, check_resolves, check_settings
from fna.runner.spelled import as_on_disk
from fna.runner.suits import ANY_MODEL, check_domain, check_examples, check_parts, check_size, check_writer, instead, lacks
from fna.runner.together import check_options, idle
from fna.runner.versus import BESIDE, Composed
from fna.runner.wanted import AUTO, Wanted, methods_of, network
from fna.surgery.plan import parse_layers
from fna.values import shown

if TYPE_CHECKING:
    from fna.data.base import DatasetSource
    from fna.models.base import ModelSource
    from fna.tasks.base import Task

PLACEHOLDER = 8  # landmarks of an op whose count is yet to be chosen
FACTS = ("depth", "patch_size")  # of a network, which blocks and sizes are held against before it is built
GROUPS = ("model", "dataset", "task", "attn", "sampler", "reduce", "mask", "kv", "logger")
OWN = ("attn", "sampler", "reduce", "mask", "kv")  # what each contender has for itself


class Logger(Protocol):
    """What ``conf/logger/*.yaml`` instantiates."""

    def check(self) -> None:
        """Raise `UserError` where what can be known before the run says that nothing could be logged."""

    def log(self, result: dict[str, Any], config: Any, folder: Path) -> None:
        """Take what the run wrote into ``folder``, of which ``result`` is ``result.json``."""


@dataclass(frozen=True)
class Asked:
    """A run: what all contenders share, and the contenders, the run's own variant first. ``notes``: what was taken otherwise."""

    cfg: DictConfig
    names: Mapping[str, str]
    dataset: DatasetSource
    model: ModelSource
    task: Task
    logger: Logger | None
    contenders: tuple[Wanted, ...]
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """One line that says what will be done."""
        limit = "all" if self.cfg.limit is None else f"up to {self.cfg.limit}"
        first = self.contenders[0]
        count = counted(first.cfg, first.names)
        beside = [f"{group}={first.names[group]}" for group in BESIDE if first.names.get(group, "none") != "none"]
        swapped = f"{first.names['attn']} in blocks {shown(first.cfg.layers)}"
        what = ", ".join(beside if beside and first.names["attn"] == "exact" else [swapped, *beside])
        told = f", landmarks={count}" if count is not None else ""
        others = f", and {len(self.contenders) - 1} more" if len(self.contenders) > 1 else ""
        where = f"{limit} samples of {self.names['dataset']} with {network(self.cfg, self.names['model'])}"
        return f"{self.names['task']} on {where}: full attention against {what}{told}{others}"


def ask(composed: Sequence[Composed], words: Sequence[str] = ()) -> Asked:
    """Check the knobs, build the (cheap) sources and every contender's attention, and try that on a tiny input.

    ``composed``: the run's own config first, then one for each string of ``versus``, which differ in what a contender has for
    itself only. ``words``: those that were typed.

    Raises `UserError` for anything that can be known to be wrong without loading weights or reading data.
    """
    for one in composed:
        check_resolves(one.cfg, one.names)
        check_settings(one.cfg, one.names)
        check_options(one)
    first = composed[0]
    cfg = _resolved(first.cfg)
    if cfg.expected is not None:
        read_figures(cfg.expected)
        cfg = _resolved(OmegaConf.create({**cfg, "expected": placed(cfg.expected)}))
    cfg = as_on_disk(cfg)
    dataset = instantiate(cfg.dataset)
    names, node = _model(cfg, first.names, dataset.domain)
    cfg = _resolved(OmegaConf.create({**cfg, "model": {**node, **_unknown(node, names["model"])}}))
    check_size(cfg, names)
    model, task = instantiate(cfg.model), instantiate(cfg.task)
    logger = instantiate(cfg.logger) if cfg.logger and "_target_" in cfg.logger else None
    check_examples(task, dataset, names)  # before what may ask for a file or a package, which would be of no use then
    notes: tuple[str, ...] = ()
    if lacking := lacks(task, model, names):
        notes = (instead(lacking, task, model, dataset, words),)
        names, cfg = {**names, "task": ANY_MODEL}, _resolved(OmegaConf.create({**cfg, "task": load_option("task", ANY_MODEL)}))
        task = instantiate(cfg.task)
    for one in composed:
        check_parts(one, model, names)
        check_writer(one, model, names)
    dataset.check()
    model.check()
    contenders = [_wanted(one, model.depth, names) for one in composed]
    if len(contenders) == 1:  # among others one may refuse, and is told so in its own line
        _try(contenders[0], model.depth)
    if hasattr(task, "check_files"):
        task.check_files()
    if hasattr(task, "check_source"):
        task.check_source(dataset)
    choose_device(cfg.device)
    if logger is not None:
        logger.check()
    notes += idle(composed, names, model, dataset, task, words)
    return Asked(cfg, names, dataset, model, task, logger, tuple(contenders), notes)


def _resolved(cfg: DictConfig) -> DictConfig:
    """A copy with every interpolation in place, so that nothing that comes later can change what it says."""
    copy = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(copy, DictConfig)
    return copy


def _model(cfg: DictConfig, names: Mapping[str, str], domain: str) -> tuple[dict[str, str], DictConfig]:
    """The names and the model's node; one that only says which weights to take for which kind of data (``by_domain``) is followed.

    Keys given on the command line beside ``by_domain`` (``model.checkpoint=FILE``) are handed on.
    """
    if "by_domain" not in cfg.model:
        return dict(names), cfg.model
    check_domain(cfg.model.by_domain, domain, names)
    option = cfg.model.by_domain[domain]
    given = {key: value for key, value in cfg.model.items() if key not in ("_target_", "by_domain") and value is not None}
    node = OmegaConf.merge(load_option("model", option), given)
    assert isinstance(node, DictConfig)
    return {**names, "model": option}, node


def _unknown(node: DictConfig, option: str) -> dict[str, None]:
    """The facts that an option's YAML tells of its own network, unknown where ``model.name`` chooses another."""
    own = load_option("model", option)
    other = "name" in own and node.get("name") != own.name
    return {fact: None for fact in FACTS if other and fact in own and node.get(fact) == own[fact]}


def _wanted(one: Composed, depth: int | None, names: Mapping[str, str]) -> Wanted:
    """A contender with its parts."""
    cfg = _resolved(one.cfg)
    auto = {"landmarks": PLACEHOLDER} if cfg.landmarks == AUTO else {}
    try:
        op = instantiate(OmegaConf.merge(cfg.attn, auto))
    except UserError as error:
        bare = str(error).partition("=")[0] in {str(key) for key in cfg.attn} - set(UNUSED)  # "steps=9: ..." is of attn.steps
        raise UserError(f"attn.{error}" if bare else by_knob(str(error), "attn", one.names["attn"])) from error
    mask, reduce, kv = (instantiate(node) if node and "_target_" in node else None for node in (cfg.mask, cfg.reduce, cfg.kv))
    methods = methods_of(cfg, one.names, op) if OmegaConf.is_dict(cfg.layers) else {}
    if mask is not None and depth is not None and getattr(mask, "blocks", "none") != "none":
        parse_layers(mask.blocks, depth, "mask.blocks")
    own = {group: one.names.get(group, "none") for group in OWN}
    wanted = Wanted(one.label, {**names, **own}, cfg, op, mask, reduce, kv, methods)
    if depth is not None and not wanted.auto:
        wanted.ops(depth)
    return wanted


def _try(wanted: Wanted, depth: int | None) -> None:
    """Run the contender's attention on a tiny input in the first of its blocks."""
    from fna.surgery.variant import Variant

    layer = 0 if depth is None or wanted.auto else next(iter(wanted.ops(depth)))
    for op in {id(op): op for op in (wanted.op, *wanted.methods.values())}.values():
        try:
            Variant(wanted.label, {layer: op}, wanted.mask, wanted.reduce, wanted.kv).try_op(op, layer)
        except UserError as error:
            own = str(error).partition("=")[0] in wanted.cfg.attn  # "steps=1000: ..." is of attn.steps
            raise UserError(f"attn.{error}" if own else str(error)) from error
