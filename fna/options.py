"""What can be typed after ``attn=``: the folders laid out like ``conf/``, the YAML files in them, and what each says."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fna import networks
from fna.errors import UserError
from fna.spelling import nearest
from fna.values import shown

_HOME = Path(__file__).resolve().parent
# fna/conf: a folder of its own in a wheel, in a checkout a link to conf/ at the top, which is taken where links are not to be had
CONF = (_HOME if (_HOME / "conf").is_dir() else _HOME.parent).joinpath("conf").resolve()
PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.M)  # Hydra's comment that says where in the config a file's keys go


def program() -> str:
    """The command as it was typed, for messages that say what to type next: python run.py, fna or python -m fna."""
    called = Path(sys.argv[0])
    module = called.name == "__main__.py" and "fna" in (called.parent.name, called.parent.parent.name)
    if module and (called.parent.name == "fna" or not Path("run.py").is_file()):  # python -m fna.report is called from anywhere
        return "python -m fna"
    in_checkout = called.stem != "fna" and (CONF.parent / "run.py").is_file()
    return "python run.py" if in_checkout else "fna"


def search_path(extra: Sequence[Path] = ()) -> list[Path]:
    """Folders laid out like ``conf/``: ``extra`` first, then FNA_CONF_DIR (separated as PATH is), then fna's own.

    Raises `UserError` for a folder of FNA_CONF_DIR that is not there, or is not laid out so.
    """
    own = [Path(part) for part in os.environ.get("FNA_CONF_DIR", "").split(os.pathsep) if part]
    for folder in own:
        if not folder.is_dir():
            raise UserError(f"FNA_CONF_DIR={folder}: no such folder; name one laid out like conf/, or unset it.")
        if not any((folder / group.name).is_dir() for group in CONF.iterdir() if group.is_dir()):
            raise UserError(f"FNA_CONF_DIR={folder}: has no folder such as attn/; name one laid out like conf/.")
    return [*extra, *own, CONF]


def choices(group: str, extra: Sequence[Path] = ()) -> dict[str, Path]:
    """Every option of a config group: name -> YAML file, sorted by name; an earlier folder hides a later one."""
    found: dict[str, Path] = {}
    for folder in search_path(extra):
        for file in sorted((folder / group).glob("*.yaml")):
            if file.is_file():  # a folder may be called so, and a link may lead nowhere
                found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def summary(file: Path) -> str:
    """The first comment of a YAML file: the sentence that ``--help`` shows for it."""
    for line in _text(file).splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line[2:].strip()
    return ""


def load_option(group: str, name: str, extra: Sequence[Path] = (), above: Sequence[str] = ()) -> DictConfig:
    """The config of one option, unresolved, with the siblings that its defaults list names merged in that list's order.

    Overrides of other groups in that list are Hydra's business and left out. ``above``: the options whose lists led here. Raises
    `UserError` naming the options that there are, or the file that is no mapping in YAML or leads back to itself.
    """
    known = choices(group, extra)
    if not isinstance(name, str) or name not in known:
        raise none_such(group, shown(name), known, extra)
    file = known[name]
    own = CONF / group / file.name
    if file != own and own.is_file() and _text(own) != _text(file):
        raise UserError(f"{file}: fna has {group}={name} itself, which Hydra would take; give yours another name.")
    if name in above:
        raise UserError(f"{file}: its defaults lead back to it ({' -> '.join([*above, name])}); take it out of the list.")
    node = _read(file)
    _check_package(file, group)
    siblings = [entry for entry in _defaults(file, node, group) if isinstance(entry, str)]
    parts = []
    for entry in siblings:
        if entry != "_self_" and entry not in known:
            raise UserError(
                f"{file}: defaults: {group}={entry}: no such {group}; {nearest(entry, known)}there is {', '.join(known)}."
            )
        parts.append(node if entry == "_self_" else load_option(group, entry, extra, [*above, name]))
    merged = OmegaConf.merge(*parts, *([] if "_self_" in siblings else [node]))
    assert isinstance(merged, DictConfig)
    return merged


def none_such(group: str, name: str, known: Iterable[str], extra: Sequence[Path] = ()) -> UserError:
    """What is said of an option that there is not, with the file that was meant and is called otherwise than .yaml."""
    asked = re.compile(rf"{re.escape(name)}\.(?!yaml$)(?i:ya?ml)")
    files = (file for folder in search_path(extra) for file in sorted((folder / group).glob("*")))
    near = [file for file in files if asked.fullmatch(file.name) and file.is_file()]
    if near and name not in known:
        return UserError(f"{group}={name}: {near[0]} is not read; rename it to {name}.yaml.")
    hint = "did you mean none? " if name.lower() in NOTHING and "none" in known else _network(group, name) or nearest(name, known)
    return UserError(f"{group}={name}: no such {group}; {hint}there is {', '.join(known)}.")


# What is typed for an option that is called otherwise here, and what to write.
MEANT = {
    ("attn", "full"): "full attention always runs beside; attn=exact is exact attention through fna's seam; ",
    ("dataset", "coco"): "captions of one's own or of COCO are dataset=coco_captions; ",
    ("model", "dino"): "model=dinov2 takes DINO's and DINOv2's networks by model.name; ",
}


def _network(group: str, name: str) -> str:
    """What an option is called that somebody means by another word, or how a network is chosen by its name elsewhere; else ""."""
    if said := MEANT.get((group, name)):
        return said
    if group == "dataset" and ("/" in name or Path(name).is_dir()):
        return f"a folder of your own is dataset=images dataset.root={name} (dataset=imagefolder, if each class has one); "
    return networks.meant(name) if group == "model" else ""


INTEGER = "tag:yaml.org,2002:int"
NOTHING = ("null", "false", "off", "no")  # what others call none
# Knobs that do nothing unless a method's YAML follows them, and what is said of a method that does not.
UNUSED = {"landmarks": "counts no landmarks", "sampler": "does not draw tokens by it"}


def follows(group: str, name: str, knob: str, extra: Sequence[Path] = ()) -> bool:
    """Whether the YAML of an option says ``${knob}``."""
    said = OmegaConf.to_container(load_option(group, name, extra), resolve=False)
    return re.search(rf"\$\{{{knob}[.}}]", str(said)) is not None


def unused(word: str, methods: Sequence[str], knob: str) -> UserError:
    """What is said of ``landmarks=16``, a knob of `UNUSED`, that none of the methods follows."""
    return UserError(f"{word}: {' and '.join(f'attn={name}' for name in methods)} {UNUSED[knob]}; leave it out.")


def _read(file: Path) -> DictConfig:
    """The mapping that a file holds. Raises `UserError` for what is none, and for keys that are no names."""
    try:
        node = OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{file}: {broken_yaml(error)}") from error
    if not isinstance(node, DictConfig):
        raise UserError(f"{file}: is a list; give keys and values, _target_: the class to build, for one.")
    _check_hydras_keys(file, OmegaConf.to_container(node, resolve=False))
    odd = [key for key in node if not isinstance(key, str)]
    if odd:
        raise UserError(f"{file}: {shown(odd[0])} is no name of a key; write steps: 6, for one.")
    return node


def _check_hydras_keys(file: Path, values: Any) -> None:
    """Refuse a ``_target_`` that is no name, and Hydra's other keys with underscores, at any depth."""
    for key, value in values.items() if isinstance(values, dict) else ():
        if value is None and re.match(r"\w+:\S", str(key)):
            raise UserError(f"{file}: {key}: put a blank behind the colon; it has to be YAML, a key and a value a line.")
        if key == "_target_" and value is not None and (not isinstance(value, str) or "${" in value):
            raise UserError(f"{file}: _target_={shown(value)} is no name; give that of the class to build, package.Class.")
        if isinstance(key, str) and key.startswith("_") and key != "_target_":
            meant = bool(difflib.get_close_matches(key, ["_target_"], 1, 0.8))
            said = ": did you mean _target_?" if meant else " is Hydra's own business; leave it out."
            raise UserError(f"{file}: {key}{said}")
        _check_hydras_keys(file, value)


def _defaults(file: Path, node: DictConfig, group: str) -> list[Any]:
    """The defaults list, taken out of ``node``: names of siblings, each once, and an experiment's choices in other groups.

    `UserError` for anything else.
    """
    listed = node.pop("defaults", None)
    entries = OmegaConf.to_container(listed, resolve=False) if isinstance(listed, ListConfig) else listed or []
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
        raise UserError(f"{file}: defaults is no list of names; write each on a line of its own, - fna, for one.")
    if twice := [entry for entry in entries if entries.count(entry) > 1]:
        raise UserError(f"{file}: defaults: names {shown(twice[0])} twice; keep one.")
    for key in (str(key) for entry in entries if isinstance(entry, dict) for key in entry):
        _check_choice(file, key, group)
    return entries


def _check_choice(file: Path, key: str, group: str) -> None:
    """Refuse an entry that chooses an option of another group in a way that Hydra has none of."""
    *keywords, place = key.split()
    other = place.lstrip("/").partition("@")[0]
    if set(keywords) - {"override"}:
        said = "optional leaves out what there is not, in silence" if "optional" in keywords else "is no word of Hydra's"
        raise UserError(f"{file}: defaults: {key}: {said}; write - override {place}: NAME")
    groups = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
    if other.partition("/")[0] not in groups:
        raise UserError(f"{file}: defaults: {key}: no such group; {nearest(other, groups)}there is {', '.join(groups)}.")
    there = "" if group == "experiment" or other.startswith("hydra/") else f"@_global_.{other}"
    if key not in (f"override /{other}{there}", f"override {other}{there}"):
        raise UserError(f"{file}: defaults: {key}: is chosen already; write - override /{other}{there}: NAME")


def _check_package(file: Path, group: str) -> None:
    """Refuse an option whose keys Hydra would put anywhere but where they are looked for."""
    text = _text(file)
    if text.startswith("\ufeff"):  # before it Hydra takes a first line for none of its own
        raise UserError(f"{file}: begins with a byte-order mark, which Hydra does not read; save it as UTF-8 without one.")
    found = PACKAGE.search(text)
    own = "_global_" if group == "experiment" else "_group_"
    if found is not None and found[1] not in (own, "_group_", group):
        raise UserError(f"{file}: '# @package {found[1]}' puts its keys where nothing reads them; leave that line out.")
    if group == "experiment" and (found is None or found[1] != own):
        raise UserError(f"{file}: an experiment's keys are those of the root; begin the file with '# @package _global_'.")


def origin(target: str, place: str, key: str = "_target_") -> str:
    """The YAML file that names a target (and has that key), as the start of a message; nothing where they were typed."""
    for file in choices(place.partition(".")[0]).values() if place else ():
        text = _text(file)
        if re.search(rf"_target_: *['\"]?{re.escape(target)}['\"]? *(#.*)?$", text, re.M) and f"{key}:" in text:
            return f"{file}: "
    return ""


def stated(target: str, place: str, key: str, value: Any) -> str:
    """The YAML file that names a target and gives a key that value, as the start of a message; nothing where it was typed."""
    group, *within = place.split(".")
    for file in choices(group).values() if place and value is not None else ():
        text = _text(file)
        node: Any = OmegaConf.to_container(_read(file), resolve=False) if target in text and f"{key}:" in text else None
        for step in within:
            node = node.get(step) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get("_target_") == target and node.get(key) == value:
            return f"{file}: "
    return ""


def check_read(target: str, place: str, key: str, value: Any) -> None:
    """Refuse a text that was made of a whole number which YAML reads as another than stands there: 010 as 8, 1_000 as 1000.

    ``value``: what was read, for ``key`` of a ``target``; of one that no file gives nothing is said.
    """
    for file in choices(place.partition(".")[0]).values() if place else ():
        text = _text(file)
        node = yaml.compose(text, Loader=yaml.SafeLoader) if target in text and f"{key}:" in text else None
        pairs = {name.value: given for name, given in node.value} if isinstance(node, yaml.MappingNode) else {}
        if key not in pairs or getattr(pairs.get("_target_"), "value", None) != target:
            continue
        given, values = (pairs[key].value, value) if isinstance(pairs[key], yaml.SequenceNode) else ([pairs[key]], [value])
        for one in given:
            read = yaml.safe_load(one.value) if one.tag == INTEGER else None
            if read is not None and read in values and str(read) != one.value:
                raise UserError(f"{file}: {key}: {one.value} is the number {read} to YAML; put it in quotes: '{one.value}'.")


def _text(file: Path) -> str:
    """What a file says, "" where it cannot be read: reading it as an option tells why."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def broken_yaml(error: Exception) -> str:
    """What is wrong with a file that is no YAML, and in which line."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark is not None else ""
    reason, _, _ = str(getattr(error, "problem", None) or error).partition("\n")  # what follows are types of OmegaConf's
    return f"{where}{reason}; it has to be YAML, a key and a value a line."
