"""The words of a command line, ``attn=fna`` or ``landmarks=16,32``, checked before Hydra composes them and torch is loaded.

`check_words` takes any list of them: what was typed, or what one more variant of a run is told. What it lets through Hydra can
read, names a group's option or a knob that there is, holds a root knob's type, and is used.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, OverrideType, RangeSweep

from fna.configs import choices
from fna.errors import UserError
from fna.options import none_such
from fna.runner.chosen import (
    already,
    check_following,
    check_option_file,
    check_used,
    chosen,
    globbed,
    groups,
    raw_values,
    sweeps,
    values,
)
from fna.runner.experiments import check_experiment
from fna.runner.hydras import check_hydras, check_place, is_hydras
from fna.runner.parsing import parsed, read, uncut
from fna.runner.remedies import Known, Options, check_nothing, kind_of, takes, written
from fna.schema import ACCEPTED, DTYPES, DTYPES_OTHERWISE, Knobs
from fna.values import held, shown

HYDRAS_KEYS = ("_args_", "_convert_", "_partial_", "_recursive_")  # they change how an object is built, not which
# What others call the folder that a run writes into.
WHERE = re.compile(r"((out(put)?s?|results?|runs?|save|logs?|exp|work)[_-]?)?(dir|folder|path)|out(put)?s?|results?|save")
# What others call dtype, and the values of it that they have besides.
PRECISION = ("precision", "mixed_precision", "amp", "torch_dtype")
PRECISIONS = {**DTYPES_OTHERWISE, **{name: name for name in DTYPES}, "true": "float16", "false": "float32"}
LISTED = re.compile(r"[\w.-]+(,[\w.-]+)*")  # words that can only be meant one by one


def check_words(words: Sequence[str], *, sweep: bool = False, extra: Sequence[Path] = ()) -> None:
    """Raise `UserError` for the first word that no run could use, with how to write it or what there is instead.

    ``sweep``: whether several values of a word are several jobs. ``extra``: folders laid out like ``conf/``, searched first.
    """
    known = {name: choices(name, extra) for name in groups(extra)}
    uncut(words)
    overrides = [parsed(word, lambda key: kind_of(key, _options(words, known, extra), known, extra)) for word in words]
    ours = [override for override in overrides if not is_hydras(override)]
    for override in overrides:
        check_hydras(override) if is_hydras(override) else _check_key(override, known)
    _check_twice(overrides)
    for override in ours:
        _check_option(override, known)
    options = {group: chosen(group, ours, known, extra) for group in known}
    for name in options["experiment"]:
        check_experiment(name, known, extra)
    for group, names in options.items():
        for name in names:
            check_option_file(group, name, extra)
    several = any(sweeps(name, extra) for name in options.get("experiment", ()))
    modes = [str(value).upper() for override in overrides if override.key_or_group == "hydra.mode" for value in values(override)]
    told = sweep or bool(modes)
    check_place(overrides, sweep=modes == ["MULTIRUN"] if modes else sweep or several)
    searching = any(override.key_or_group == "hydra/sweeper" for override in overrides)
    for override in overrides:
        if override.is_sweep_override():
            swept = told or (several and override.key_or_group != "experiment")
            _check_sweep(override, swept, searching, known, lambda key: kind_of(key, options, known, extra))
    for override in ours:
        _check_plus(override, options, extra)
        _check_values(override, lambda key: kind_of(key, options, known, extra))
        check_following(override, options, extra)
    check_used(ours, options, extra)


def _options(words: Sequence[str], known: Known, extra: Sequence[Path]) -> Options:
    """The options that those words come to which Hydra can read."""
    readable = [override for override in map(read, words) if override is not None and not is_hydras(override)]
    return {group: chosen(group, readable, known, extra) for group in known}


def _check_key(override: Override, known: Known) -> None:
    key, word = override.key_or_group, override.input_line
    root, _, rest = key.partition(".")
    if override.type == OverrideType.DEL and (root in known or root in Knobs.__dataclass_fields__):
        none = f"write {root}=none" if "none" in known.get(root, ()) and not rest else "drop the word."
        raise UserError(f"{word}: nothing can be left out; {none}")
    if rest.rpartition(".")[2] in HYDRAS_KEYS:
        raise UserError(f"{word}: is Hydra's own business, no option; leave it out.")
    if override.package is not None:
        raise UserError(f"{word}: a group has one place; write {key}={override.get_value_element_as_str()}.")
    if root not in Knobs.__dataclass_fields__ and root not in known:
        raise UserError(f"{root}: no such knob; {_meant_knob(root, str(override.value()))}")
    if rest and root not in known and key not in ACCEPTED:
        has = [name.partition(".")[2] for name in ACCEPTED if name.startswith(f"{root}.")]
        raise UserError(f"{key}: {root} has no key {rest}; it has {', '.join(has) or 'none of its own'}.")


def _meant_knob(name: str, value: str) -> str:
    """What to type instead of a knob that there is not."""
    if WHERE.fullmatch(name):
        return "hydra.run.dir=FOLDER says where a run is written, hydra.sweep.dir=FOLDER where a sweep (-m) is."
    if name in DTYPES_OTHERWISE:  # fp16=true, as flags of trainers
        return f"did you mean dtype={DTYPES_OTHERWISE[name]}?"
    if name in PRECISION:
        meant = PRECISIONS.get(value.lower().removeprefix("torch."))
        return f"did you mean dtype={meant}?" if meant else f"dtype is {', '.join(DTYPES)}."
    near = difflib.get_close_matches(name, [*Knobs.__dataclass_fields__], 1)
    return f"did you mean {near[0]}?" if near else f"there is {', '.join(Knobs.__dataclass_fields__)}."


def _check_twice(overrides: Sequence[Override]) -> None:
    seen: dict[str, str] = {}
    for override in overrides:
        key, word = override.key_or_group, str(override.input_line)
        if key in seen and is_hydras(override):
            raise UserError(f"{key} is given twice, {seen[key]} and {word}: keep one.")
        if key in seen:
            texts = [str(one.input_line).partition("=")[2] for one in overrides if one.key_or_group == key]
            whole = read(meant := f"{key}={{{','.join(texts)}}}")  # which a shell makes words of, for these braces are its own
            if whole is not None and key in ACCEPTED and takes(ACCEPTED[key], whole.value()):
                raise UserError(f"{seen[key]} {word}: the shell reads braces itself; write {shlex.quote(meant)}")
            raise UserError(f"{key} is given twice, {seen[key]} and {word}: keep one; several values are a sweep, -m {key}=A,B.")
        seen[key] = word


def _check_option(override: Override, known: Known) -> None:
    group = override.key_or_group
    if group not in known:
        return
    if isinstance(override._value, Glob) and not globbed(override._value, known[group]):
        raise UserError(f"{override.input_line}: matches none of {', '.join(known[group])}.")
    for name in values(override):
        typed = override.input_line.partition("=")[2] if override.input_line and not override.is_sweep_override() else shown(name)
        if not isinstance(name, str) and typed in known[group]:
            file = known[group][typed]
            raise UserError(
                f"{override.input_line}: Hydra reads no name there but a value; rename {file}, {group}_{file.name} for one."
            )
        if not isinstance(name, str) or name not in known[group]:
            raise none_such(group, name if isinstance(name, str) else typed, known[group])


def _check_plus(override: Override, options: Options, extra: Sequence[Path]) -> None:
    """Refuse a + before what is there already; two before a key of it are Hydra's way to set it in any case."""
    key, word = override.key_or_group, str(override.input_line)
    group, _, path = key.partition(".")
    said = [raw[path] for name in options.get(group, ()) if path in (raw := raw_values(group, name, extra))] if path else []
    there = not path or key in ACCEPTED or bool(said)
    if (override.is_add() and there) or (override.is_force_add() and key in options):
        raise UserError(already(word, key, said))


def _check_sweep(override: Override, sweep: bool, searching: bool, known: Known, kind: Callable[[str], Any]) -> None:
    """Refuse several values where one job runs, and those that no sweep can name. ``searching``: a sweeper was chosen."""
    key, word = override.key_or_group, str(override.input_line)
    if isinstance(override._value, Glob) and key not in known:
        raise UserError(f"{word}: glob(...) stands for options of a group; name the values.")
    if isinstance(override._value, IntervalSweep) and not searching:
        raise UserError(f"{word}: interval(...) is for a sweeper that searches; name the values.")
    if not sweep:
        one = _as_one(override, key in known or "/" in key, kind(key)) or "."
        raise UserError(f"{word}: several values are a sweep, which needs -m{one}")
    if isinstance(override._value, ChoiceSweep | RangeSweep) and not any(True for _ in values(override)):
        raise UserError(f"{word}: names no value, so that there is no job; give one.")


def _as_one(override: Override, option: bool, kind: Any) -> str:
    """How to write values with commas as the one value that they may have been meant as; "" where there is no such way."""
    key, text = override.key_or_group, str(override.input_line).partition("=")[2]
    simple = isinstance(override._value, ChoiceSweep) and override._value.simple_form
    lists = [f"{key}={opened}{text}{closed}" for opened, closed in ("[]", "{}") if simple]
    fitting = [word for word in lists if (found := read(word)) is not None and kind is not Any and takes(kind, found.value())]
    apart = key not in ACCEPTED and LISTED.fullmatch(text)  # words that make no text together
    if option or (apart and not fitting):
        return ""
    if takes(kind, text) and not apart:
        return f"; as one value write {written(key, text)}"
    return f"; as one {'list' if apart else 'value'} write {shlex.quote(fitting[0])}" if fitting else ""


def _check_values(override: Override, kind: Callable[[str], Any]) -> None:
    key, word = override.key_or_group, str(override.input_line)
    if "???" in values(override):
        raise UserError(f"{word}: ??? stands for a value that is missing; give one.")
    check_nothing(word, key, values(override), kind)
    for value in values(override) if key in ACCEPTED else ():
        if not (isinstance(value, str) and "${" in value):
            fitted = held(ACCEPTED[key], value, key)
            if type(fitted) is int and isinstance(value, float):  # OmegaConf takes no float for a whole number
                raise UserError(f"{word}: is a whole number with a point or an exponent; write {key}={fitted}")
