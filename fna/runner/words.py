"""The words of a command line, ``attn=fna`` or ``landmarks=16,32``, checked before Hydra composes them and torch is loaded.

`check_words` takes any list of them: what was typed, or what one more variant of a run is told. What it lets through Hydra can
read, names a group's option or a knob that there is, holds a root knob's type, and is used.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, OverrideType, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fna.configs import CONF, choices, load_option, search_path
from fna.errors import UserError
from fna.schema import ACCEPTED, Knobs
from fna.values import held, shown

BARE = ("mask", "reduce", "kv", "logger", "experiment")  # groups of which a run needs none
FOLLOWING = ("attn", "reduce", "mask", "kv")  # groups whose YAML may follow the knobs of `USED`
USED = ("landmarks", "sampler")  # knobs that do nothing unless a method follows them
SAID = {"landmarks": "counts no landmarks", "sampler": "does not draw tokens by it"}


def check_words(words: Sequence[str], *, sweep: bool = False, extra: Sequence[Path] = ()) -> None:
    """Raise `UserError` for the first word that no run could use, with how to write it or what there is instead.

    ``sweep``: whether several values of a word are several jobs. ``extra``: folders laid out like ``conf/``, searched first.
    """
    overrides = [parsed(word) for word in words]
    ours = [override for override in overrides if not _is_hydras(override)]
    known = {name: choices(name, extra) for name in _groups(extra)}
    for override in ours:
        _check_key(override, known)
    _check_twice(ours)
    for override in ours:
        _check_option(override, known)
    chosen = {group: _chosen(group, ours, known, extra) for group in known}
    for group, names in chosen.items():
        for name in names:
            _check_file(group, name, extra)
    several = sweep or any(_sweeps(name, extra) for name in chosen.get("experiment", ()))
    several = several or any(override.key_or_group == "hydra.mode" for override in overrides)
    for override in ours:
        _check_values(override, several)
    _check_used(ours, chosen, extra)


def parsed(word: str) -> Override:
    """A word as Hydra reads it; `UserError` says how to write what Hydra cannot read."""
    key, equals, value = word.partition("=")
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        pass
    else:
        if override.key_or_group and (equals or override.type == OverrideType.DEL):
            override.input_line = word
            return override
    if not equals:
        groups = [f"{group}={word}" for group in _groups() if word in choices(group)]
        raise UserError(f"{word}: is no knob=value; {f'did you mean {groups[0]}?' if groups else 'write landmarks=64, for one.'}")
    if not re.fullmatch(r"\+{0,2}[A-Za-z_][\w./@-]*", key) or re.search(r"[./@]{2}|[./@]$", key):
        raise UserError(f"{word}: '{key}' is no knob's name; write knob=value without spaces around =, such as landmarks=64.")
    raise UserError(f"{word}: Hydra reads some of these signs as its own; write {written(key, value)}")


def written(key: str, text: str) -> str:
    """``key=text`` for a shell, in quotes that Hydra takes off again."""
    word = f"{key}={QuotedString(text, Quote.double if chr(39) in text else Quote.single).with_quotes()}"
    return shlex.quote(word) if set(word) & set('"$`\\!') else f'"{word}"'


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.split("/")[0].split(".")[0] == "hydra"


def _check_key(override: Override, known: Mapping[str, Mapping[str, Path]]) -> None:
    key, word = override.key_or_group, override.input_line
    root, _, rest = key.partition(".")
    if override.type == OverrideType.DEL:
        raise UserError(f"{word}: nothing can be left out; choose another, {root}=none for one, or drop the word.")
    if override.package is not None:
        raise UserError(f"{word}: a group has one place; write {key}={override.get_value_element_as_str()}.")
    if root not in Knobs.__dataclass_fields__ and root not in known:
        near = difflib.get_close_matches(root, [*Knobs.__dataclass_fields__], 1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(Knobs.__dataclass_fields__)}."
        raise UserError(f"{root}: no such knob; {hint}")
    if rest and root not in known and key not in ACCEPTED:
        has = [name.partition(".")[2] for name in ACCEPTED if name.startswith(f"{root}.")]
        raise UserError(f"{key}: {root} has no key {rest}; it has {', '.join(has) or 'none of its own'}.")


def _check_twice(overrides: Sequence[Override]) -> None:
    seen: dict[str, str] = {}
    for override in overrides:
        key, word = override.key_or_group, str(override.input_line)
        if key in seen:
            raise UserError(f"{key} is given twice, {seen[key]} and {word}: keep one; several values are a sweep, -m {key}=A,B.")
        seen[key] = word


def values(override: Override) -> Iterator[Any]:
    """The values of a word, one a job; of ``glob(...)`` and ``interval(...)``, which only Hydra can tell, none."""
    value = override._value
    if isinstance(value, ChoiceSweep | RangeSweep):
        yield from map(_plain, override.sweep_iterator())
    elif not override.is_sweep_override():
        yield _plain(override.value())


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def _check_option(override: Override, known: Mapping[str, Mapping[str, Path]]) -> None:
    group = override.key_or_group
    if group not in known:
        return
    if isinstance(override._value, Glob) and not _globbed(override._value, known[group]):
        raise UserError(f"{override.input_line}: matches none of {', '.join(known[group])}.")
    for name in values(override):
        if name is None and group in BARE:
            continue
        if not isinstance(name, str) or name not in known[group]:
            near = difflib.get_close_matches(str(name), [*known[group]], 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{group}={shown(name)}: no such {group}; {hint}there is {', '.join(known[group])}.")


def _globbed(pattern: Glob, names: Mapping[str, Path]) -> list[str]:
    taken = {name for part in pattern.include for name in fnmatch.filter(names, part)}
    return sorted(taken - {name for part in pattern.exclude for name in fnmatch.filter(names, part)})


def _check_values(override: Override, sweep: bool) -> None:
    key, word = override.key_or_group, str(override.input_line)
    if override.is_sweep_override() and not sweep:
        one = written(key, word.partition("=")[2])
        raise UserError(f"{word}: several values are a sweep, which needs -m; as one value write {one}")
    if isinstance(override._value, ChoiceSweep | RangeSweep) and not any(True for _ in values(override)):
        raise UserError(f"{word}: names no value, so that there is no job; give one.")
    for value in values(override) if key in ACCEPTED else ():
        if not (isinstance(value, str) and "${" in value):
            held(ACCEPTED[key], value, key)


def _check_used(overrides: Sequence[Override], chosen: Mapping[str, Sequence[str]], extra: Sequence[Path]) -> None:
    """Refuse a typed count of landmarks or sampler that no chosen method uses; in a sweep it is enough that one of them does."""
    options = [(group, name) for group in FOLLOWING for name in chosen.get(group, ())]
    for override in overrides:
        knob = override.key_or_group.partition(".")[0]
        if knob in USED and not any(_follows(group, name, knob, extra) for group, name in options):
            methods = " and ".join(f"attn={name}" for name in chosen["attn"])
            raise UserError(f"{override.input_line}: {methods} {SAID[knob]}; leave it out.")


def _follows(group: str, name: str, knob: str, extra: Sequence[Path]) -> bool:
    node = OmegaConf.to_yaml(load_option(group, name, extra))
    return re.search(rf"\$\{{{knob}[.}}]", node) is not None


def _chosen(group: str, overrides: Sequence[Override], known: Mapping[str, Mapping[str, Path]], extra: Sequence[Path]) -> list[str]:
    """The options of a group that the words come to: as typed, else as an experiment has it, else the default."""
    for override in overrides:
        if override.key_or_group == group:
            found = _globbed(override._value, known[group]) if isinstance(override._value, Glob) else list(values(override))
            return [name for name in found if isinstance(name, str)]
    of_experiments = [] if group == "experiment" else _chosen("experiment", overrides, known, extra)
    found = [name for experiment in of_experiments for name in _in_experiment(group, experiment, extra)]
    return found or [name for name in [_default(group)] if name is not None]


def _in_experiment(group: str, name: str, extra: Sequence[Path]) -> list[str]:
    """What an experiment sweeps over or says last of a group, itself or through those that it builds on."""
    node = load_option("experiment", name, extra)
    swept = (OmegaConf.select(node, "hydra.sweeper.params") or {}).get(group)
    if swept is not None:
        return [part.strip() for part in str(swept).split(",")]
    listed = OmegaConf.load(choices("experiment", extra)[name]).get("defaults") or []
    for entry in reversed(listed):
        if isinstance(entry, str) and entry != "_self_" and (found := _in_experiment(group, entry, extra)):
            return found
        if not isinstance(entry, str) and f"override /{group}" in entry:
            return [str(entry[f"override /{group}"])]
    return []


def _sweeps(experiment: str, extra: Sequence[Path]) -> bool:
    return OmegaConf.select(load_option("experiment", experiment, extra), "hydra.mode") == "MULTIRUN"


def _default(group: str) -> str | None:
    listed = OmegaConf.load(CONF / "config.yaml")["defaults"]
    return next((entry[group] for entry in listed if not isinstance(entry, str) and group in entry), None)


def _check_file(group: str, name: str, extra: Sequence[Path]) -> None:
    """Refuse an option whose YAML names nothing to build."""
    node = load_option(group, name, extra)
    builds = node.get("_target_") or "by_domain" in node
    if group != "experiment" and not builds and (name != "none" or group not in BARE):
        file = choices(group, extra)[name]
        raise UserError(f"{file}: has no _target_; name the class to build, as {CONF / 'attn' / 'fna.yaml'} does.")


def _groups(extra: Sequence[Path] = ()) -> list[str]:
    folders = (folder for root in search_path(extra) for folder in root.iterdir() if folder.is_dir())
    return sorted({folder.name for folder in folders} - {"hydra"})
