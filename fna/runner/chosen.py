"""What words come to before Hydra composes them: the options of each group, typed, an experiment's or the default."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from fna.configs import CONF, choices, load_option, search_path
from fna.errors import UserError
from fna.options import UNUSED, follows, none_such, unused

FOLLOWING = ("attn", "reduce", "mask", "kv")  # groups whose YAML may follow the root's landmarks and sampler
MOST_JOBS = 10_000  # of one word
BARE = ("mask", "reduce", "kv", "logger", "experiment")  # groups of which a run needs none


def values(override: Override) -> Iterator[Any]:
    """The values of a word, one a job; of ``glob(...)`` and ``interval(...)``, which only Hydra can tell, none."""
    value = override._value
    if isinstance(value, ChoiceSweep | RangeSweep):
        yield from map(_plain, override.sweep_iterator())
    elif not override.is_sweep_override():
        yield _plain(override.value())


def _plain(value: Any) -> Any:
    """Without the marks of what stood in quotes, at any depth."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    return value.text if isinstance(value, QuotedString) else value


def globbed(pattern: Glob, names: Mapping[str, Path]) -> list[str]:
    """The options that ``glob(x*)`` stands for."""
    taken = {name for part in pattern.include for name in fnmatch.filter(names, part)}
    return sorted(taken - {name for part in pattern.exclude for name in fnmatch.filter(names, part)})


def chosen(group: str, overrides: Sequence[Override], known: Mapping[str, Mapping[str, Path]], extra: Sequence[Path]) -> list[str]:
    """The options of a group that the words come to: as typed, else as an experiment or a data set has it, else the default."""
    for override in overrides:
        if override.key_or_group == group:
            found = globbed(override._value, known[group]) if isinstance(override._value, Glob) else list(values(override))
            return [name for name in found if isinstance(name, str)]
    of_experiments = [] if group == "experiment" else chosen("experiment", overrides, known, extra)
    found = [name for experiment in of_experiments for name in _in_experiment(group, experiment, extra)]
    if group in ("task", "attn") and not found:
        found = [
            name for data in chosen("dataset", overrides, known, extra) for name in _in_defaults("dataset", data, group, extra)
        ]
    return found or [name for name in [_default(group)] if name is not None]


def _in_experiment(group: str, name: str, extra: Sequence[Path]) -> list[str]:
    """What an experiment sweeps over or says last of a group, itself or through those that it builds on."""
    node = load_option("experiment", name, extra)
    params = OmegaConf.select(node, "hydra.sweeper.params")  # its keys have dots
    swept = params.get(group) if isinstance(params, DictConfig) else None
    if swept is not None:
        return _named(group, str(swept), extra)
    return _in_defaults("experiment", name, group, extra)


def _named(group: str, swept: str, extra: Sequence[Path]) -> list[str]:
    """The options in what a sweep says of a group: ``fna,exact``, ``choice(fna,exact)``, ``glob(fna*)``."""
    try:
        override = OverridesParser.create().parse_override(f"{group}={swept}")
    except HydraException:
        return [part.strip() for part in swept.split(",")]
    found = globbed(override._value, choices(group, extra)) if isinstance(override._value, Glob) else values(override)
    return [str(name) for name in found]


def _in_defaults(kind: str, name: str, group: str, extra: Sequence[Path]) -> list[str]:
    """What an option of ``kind`` chooses of another group in its defaults list, last word first."""
    known = choices(kind, extra)
    if name not in known:
        return []
    load_option(kind, name, extra)  # refuses what is no list of names, or leads back to itself
    listed = OmegaConf.select(OmegaConf.load(known[name]), "defaults") or []
    for entry in reversed(listed):
        if isinstance(entry, str) and entry != "_self_":
            found = _in_experiment(group, entry, extra) if kind == "experiment" else _in_defaults(kind, entry, group, extra)
            if found:
                return found
        for key in (f"override /{group}", f"override /{group}@_global_.{group}"):
            if not isinstance(entry, str) and key in entry:
                option, there = str(entry[key]), choices(group, extra)
                if option not in there and "${" not in option:
                    raise UserError(f"{known[name]}: defaults: {none_such(group, option, there, extra)}")
                return [option]
    return []


def sweeps(experiment: str, extra: Sequence[Path]) -> bool:
    """Whether an experiment is a sweep without ``-m``."""
    return OmegaConf.select(load_option("experiment", experiment, extra), "hydra.mode") == "MULTIRUN"


def _default(group: str) -> str | None:
    listed = OmegaConf.select(OmegaConf.load(CONF / "config.yaml"), "defaults")
    return next((entry[group] for entry in listed if not isinstance(entry, str) and group in entry), None)


def check_option_file(group: str, name: str, extra: Sequence[Path]) -> None:
    """Refuse an option whose YAML names nothing to build."""
    node = load_option(group, name, extra)
    builds = node.get("_target_") or "by_domain" in node
    if group != "experiment" and not builds and (name != "none" or group not in BARE):
        file = choices(group, extra)[name]
        raise UserError(f"{file}: has no _target_; name the class to build, as {CONF / 'attn' / 'fna.yaml'} does.")


def groups(extra: Sequence[Path] = ()) -> list[str]:
    """The folders of ``conf/`` and of those laid out like it."""
    folders = (folder for root in search_path(extra) for folder in root.iterdir() if folder.is_dir())
    return sorted({folder.name for folder in folders} - {"hydra"})


def counted(cfg: DictConfig, names: Mapping[str, str]) -> Any:
    """How many landmarks a contender has: its attention's own count, the root's where it follows that, None where it has none."""
    own = cfg.attn.get("landmarks")
    options = [(group, name) for group in FOLLOWING if (name := names.get(group, "none")) in choices(group)]
    options += [("attn", name) for name in named(cfg.layers)]
    return cfg.landmarks if own is None and any(follows(*option, "landmarks") for option in options) else own


def raw_values(group: str, name: str, extra: Sequence[Path] = ()) -> dict[str, Any]:
    """The keys of an option as its YAML has them, ``${landmarks}`` unresolved."""
    found = OmegaConf.to_container(load_option(group, name, extra), resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def followed(raw: Any) -> str | None:
    """The root knob that a value of an option's YAML follows (``${landmarks}``), None where it is one of its own."""
    return raw.strip("${}") if isinstance(raw, str) and raw.startswith("${") else None


def already(word: str, key: str, raw: Sequence[Any]) -> str:
    """What is said of a + before a key that is there, with the values ``raw``: how to set it, or the knob that it follows."""
    knob = next(filter(None, map(followed, raw)), None)
    return (
        f"{word}: {key} follows {knob}; set {knob}=... instead." if knob else f"{word}: is there already; write {word.lstrip('+')}"
    )


def check_range(word: str, asked: RangeSweep) -> None:
    """Refuse steps that lead nowhere, and more jobs than anybody waits for."""
    length, step = float(asked.stop or 0) - float(asked.start or 0), float(asked.step)
    if not math.isfinite(length) or not math.isfinite(step) or step == 0 or length / step > MOST_JOBS:
        raise UserError(f"{word}: is no list of at most {MOST_JOBS} values, a job each; write range(1,4), for one.")


def check_used(overrides: Sequence[Override], chosen: Mapping[str, Sequence[str]], extra: Sequence[Path]) -> None:
    """Refuse a typed count of landmarks, sampler or judge that nothing chosen uses; in a sweep it is enough that one does."""
    options = [(group, name) for group in FOLLOWING for name in chosen.get(group, ())]
    options += [("attn", name) for name in planned(overrides) if name in choices("attn", extra)]
    for override in overrides:
        knob = override.key_or_group.partition(".")[0]
        if knob in UNUSED and not any(follows(group, name, knob, extra) for group, name in options):
            raise unused(str(override.input_line), chosen["attn"], knob)
        if knob == "judge" and not any(follows("task", name, knob, extra) for name in chosen["task"]):
            task = " and ".join(f"task={name}" for name in chosen["task"])
            raise UserError(f"{override.input_line}: {task} asks no judge; leave it out, or take dataset=llava_bench.")


def planned(overrides: Sequence[Override]) -> list[str]:
    """The methods that plans in ``layers=`` name."""
    plans = [value for override in overrides if override.key_or_group == "layers" for value in values(override)]
    return [name for plan in plans for name in named(plan)]


def named(layers: Any) -> list[str]:
    """The methods that a plan of blocks names, each once; none where ``layers`` says blocks only."""
    plan = layers.values() if isinstance(layers, Mapping) else ()
    each = [_plain(names) for names in plan]
    return list(dict.fromkeys(str(_plain(one)) for names in each for one in ([names] if isinstance(names, str) else names)))


def check_following(override: Override, options: Mapping[str, Sequence[str]], extra: Sequence[Path]) -> None:
    """Refuse ``attn.sampler.features``, a key below one that follows a root group (``sampler: ${sampler}``): it has none."""
    group, _, path = override.key_or_group.partition(".")
    key, _, rest = path.partition(".")
    for name in options.get(group, ()) if rest else ():
        if knob := followed(raw_values(group, name, extra).get(key)):
            raise UserError(f"{override.input_line}: {group}.{key} follows {knob}; set {knob}.{rest}=... instead.")
