"""The words of a command line, ``attn=fna`` or ``landmarks=16,32``, checked before Hydra composes them and torch is loaded.

`check_words` takes any list of them: what was typed, or what one more variant of a run is told. What it lets through Hydra can
read, names a group's option or a knob that there is, holds a root knob's type, and is used.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, OverrideType, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from fna.configs import choices
from fna.errors import UserError
from fna.runner.chosen import check_option_file, chosen, follows, globbed, groups, raw_values, sweeps, values
from fna.schema import ACCEPTED, Knobs
from fna.values import held, shown

FOLLOWING = ("attn", "reduce", "mask", "kv")  # groups whose YAML may follow the knobs of `USED`
USED = ("landmarks", "sampler")  # knobs that do nothing unless a method follows them
HYDRAS_KEYS = ("_args_", "_convert_", "_partial_", "_recursive_")  # they change how an object is built, not which
SAID = {"landmarks": "counts no landmarks", "sampler": "does not draw tokens by it"}


def check_words(words: Sequence[str], *, sweep: bool = False, extra: Sequence[Path] = ()) -> None:
    """Raise `UserError` for the first word that no run could use, with how to write it or what there is instead.

    ``sweep``: whether several values of a word are several jobs. ``extra``: folders laid out like ``conf/``, searched first.
    """
    overrides = [parsed(word) for word in words]
    ours = [override for override in overrides if not _is_hydras(override)]
    known = {name: choices(name, extra) for name in groups(extra)}
    for override in ours:
        _check_key(override, known)
    _check_twice(ours)
    for override in ours:
        _check_option(override, known)
    options = {group: chosen(group, ours, known, extra) for group in known}
    for group, names in options.items():
        for name in names:
            check_option_file(group, name, extra)
    several = sweep or any(sweeps(name, extra) for name in options.get("experiment", ()))
    several = several or any(override.key_or_group == "hydra.mode" for override in overrides)
    for override in ours:
        _check_values(override, several)
        _check_following(override, options, extra)
    _check_used(ours, options, extra)


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
        meant = next(
            (f"did you mean {group}={word}?" for group in groups() if word in choices(group)), "write landmarks=64, for one."
        )
        raise UserError(f"{word}: is no knob=value; {meant}")
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
    if rest.rpartition(".")[2] in HYDRAS_KEYS:
        raise UserError(f"{word}: is Hydra's own business, no option; leave it out.")
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


def _check_option(override: Override, known: Mapping[str, Mapping[str, Path]]) -> None:
    group = override.key_or_group
    if group not in known:
        return
    if isinstance(override._value, Glob) and not globbed(override._value, known[group]):
        raise UserError(f"{override.input_line}: matches none of {', '.join(known[group])}.")
    for name in values(override):
        if not isinstance(name, str) or name not in known[group]:
            near = ["none"] if name is None and "none" in known[group] else difflib.get_close_matches(str(name), [*known[group]], 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{group}={shown(name)}: no such {group}; {hint}there is {', '.join(known[group])}.")


def _check_values(override: Override, sweep: bool) -> None:
    key, word = override.key_or_group, str(override.input_line)
    if override.is_sweep_override() and not sweep:
        one = written(key, word.partition("=")[2])
        raise UserError(f"{word}: several values are a sweep, which needs -m; as one value write {one}")
    if isinstance(override._value, ChoiceSweep | RangeSweep) and not any(True for _ in values(override)):
        raise UserError(f"{word}: names no value, so that there is no job; give one.")
    for value in values(override) if key in ACCEPTED else ():
        if not (isinstance(value, str) and "${" in value):
            fitted = held(ACCEPTED[key], value, key)
            if type(fitted) is int and isinstance(value, float):  # OmegaConf takes no float for a whole number
                raise UserError(f"{word}: write {key}={fitted}.")


def _check_following(override: Override, options: Mapping[str, Sequence[str]], extra: Sequence[Path]) -> None:
    """Refuse ``attn.sampler.features``, a key below one that follows a root group (``sampler: ${sampler}``): it has none."""
    group, _, path = override.key_or_group.partition(".")
    key, _, rest = path.partition(".")
    for name in options.get(group, ()) if rest else ():
        followed = raw_values(group, name, extra).get(key)
        if isinstance(followed, str) and followed.startswith("${"):
            knob = followed.strip("${}")
            raise UserError(f"{override.input_line}: {group}.{key} follows {knob}; set {knob}.{rest}=... instead.")


def _check_used(overrides: Sequence[Override], chosen: Mapping[str, Sequence[str]], extra: Sequence[Path]) -> None:
    """Refuse a typed count of landmarks or sampler that no chosen method uses; in a sweep it is enough that one of them does."""
    options = [(group, name) for group in FOLLOWING for name in chosen.get(group, ())]
    for override in overrides:
        knob = override.key_or_group.partition(".")[0]
        if knob in USED and not any(follows(group, name, knob, extra) for group, name in options):
            methods = " and ".join(f"attn={name}" for name in chosen["attn"])
            raise UserError(f"{override.input_line}: {methods} {SAID[knob]}; leave it out.")
