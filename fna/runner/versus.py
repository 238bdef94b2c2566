"""``versus=``: more contenders in one run, each a string of words that change what a contender has for itself.

versus='["attn=fna landmarks=16","attn=nystromformer","sampler=random"]'
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from fna.configs import choices
from fna.errors import UserError
from fna.schema import ACCEPTED
from fna.values import held, shown

GROUPS = ("attn", "sampler", "reduce", "mask", "kv")
KNOBS = ("landmarks", "layers", "tolerance")
BESIDE = ("reduce", "mask", "kv")  # what is done to a model besides its attention


@dataclass(frozen=True)
class Composed:
    """A composed config, the names of its options by group, and what it is called beside the others."""

    label: str
    cfg: DictConfig
    names: Mapping[str, str]


def composed(cfg: DictConfig, names: Mapping[str, str], words: Sequence[str]) -> tuple[Composed, ...]:
    """The run's own config, then one for each string of ``cfg.versus``. ``words``: those that the run itself was made with.

    Raises `UserError` for a string that is none, names nothing, or what all contenders share; Hydra's own errors for what it
    cannot compose.
    """
    strings = held(ACCEPTED["versus"], list(cfg.versus) if OmegaConf.is_list(cfg.versus) else cfg.versus, "versus")
    asked = [_split(string) for string in strings]
    others = [_compose(words, own) for own in asked]
    mentioned = [key for own in asked for key in dict.fromkeys(_key(word) for word in own)]
    cfg = _as_typed(cfg, words)
    first = Composed(_own_label(cfg, names, mentioned), cfg, names)
    labels = [
        " ".join([chosen["attn"], *(word for word in own if _key(word) != "attn")])
        for own, (_, chosen) in zip(asked, others, strict=True)
    ]
    found = [first, *(Composed(label, each, chosen) for label, (each, chosen) in zip(labels, others, strict=True))]
    twice = {one.label for one in found if sum(other.label == one.label for other in found) > 1}
    if twice:
        raise UserError(f"versus: {sorted(twice)[0]} stands there twice; name each contender once.")
    return tuple(found)


def _split(string: object) -> list[str]:
    """The words of one contender, each checked to be its own to change."""
    try:
        words = _whole(shlex.split(string)) if isinstance(string, str) else []
    except ValueError as error:
        raise UserError(f'versus: {string}: {error}; write each contender as "attn=fna landmarks=16".') from error
    if not words:
        raise UserError(f'versus: {string!r} names no contender; write each as "attn=fna landmarks=16".')
    for word in words:
        knob = _key(word).partition(".")[0]
        if "=" not in word or knob not in (*GROUPS, *KNOBS):
            options = [f"{group}={word}" for group in GROUPS if word in choices(group)]
            near = options or difflib.get_close_matches(knob, (*GROUPS, *KNOBS), 1)
            raise UserError(
                f"versus: {word}: {f'did you mean {near[0]}? ' if near else ''}contenders share model, data and everything else; "
                f"each has its own {', '.join((*GROUPS, *KNOBS))} only."
            )
    return words


def _whole(pieces: Sequence[str]) -> list[str]:
    """Words that blanks in brackets have cut apart, as one again: ``layers={0-3: exact, 4-7: fna}``."""
    words: list[str] = []
    for piece in pieces:
        if words and any(words[-1].count(opened) > words[-1].count(closed) for opened, closed in ("{}", "[]")):
            words[-1] += f" {piece}"
        else:
            words.append(piece)
    return words


def _key(word: str) -> str:
    return word.partition("=")[0]


def _compose(words: Sequence[str], own: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The run's config with a contender's words: what they say again is left out of the run's own, a new option with its keys."""
    from hydra import compose

    from fna.options import UNUSED
    from fna.runner.refusals import REFUSALS, one_line
    from fna.runner.typed import as_typed
    from fna.runner.words import check_words

    said = {_key(word) for word in own}
    fresh = tuple(f"{key}." for key in said if key in GROUPS)
    kept = [word for word in words if _key(word) not in said | {"versus"} and not word.startswith(fresh)]
    ours = [word for word in kept if not word.startswith("hydra.") and _key(word) not in UNUSED]  # those may serve the others
    check_words([*ours, *own])
    try:
        whole = compose("config", as_typed([*kept, *own]), return_hydra_config=True)
    except REFUSALS as error:
        raise UserError(f"versus: {' '.join(own)}: {one_line(error)}") from error
    names = {group: str(choice) for group, choice in whole.hydra.runtime.choices.items() if "/" not in group}
    bare = DictConfig({key: value for key, value in whole.items_ex(resolve=False) if key != "hydra"})
    return _as_typed(bare, [*kept, *own]), names


def _as_typed(cfg: DictConfig, words: Sequence[str]) -> DictConfig:
    """``cfg`` with the plan of blocks that was typed, which Hydra merges into an experiment's own."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for word in words:
        if word.lstrip("+").startswith("layers={"):
            cfg = cfg.copy()
            cfg.layers = OverridesParser.create().parse_override(word).value()
    return cfg


def _own_label(cfg: DictConfig, names: Mapping[str, str], mentioned: Sequence[str]) -> str:
    """What the run's own variant is called: its method, what else is done to the model, and what it has where the others were given
    something else."""
    told = [f"{group}={names[group]}" for group in BESIDE if names.get(group, "none") != "none"]
    for key in dict.fromkeys(mentioned):
        if key in GROUPS:
            told += [f"{key}={names.get(key, 'none')}"] if key != "attn" else []
        elif key in KNOBS:
            told.append(f"{key}={shown(cfg[key])}")
    return " ".join([names["attn"], *dict.fromkeys(told)])
