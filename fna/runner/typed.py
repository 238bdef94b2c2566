"""Texts that look like numbers, as they were typed: Hydra reads ``1_000`` as 1000 and ``1.10`` as 1.1, which are other folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from antlr4 import CommonTokenStream, InputStream
from hydra.core.override_parser.overrides_parser import create_functions
from hydra.core.override_parser.overrides_visitor import HydraErrorListener, HydraOverrideVisitor
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser
from omegaconf import OmegaConf

from fna.configs import CONF, choices, load_option, search_path
from fna.errors import UserError
from fna.runner.chosen import chosen, groups, values
from fna.runner.hydras import is_hydras
from fna.runner.own_files import check_numbers
from fna.runner.parsing import read
from fna.runner.remedies import kind_of, takes
from fna.schema import ACCEPTED
from fna.values import held, made_text

NUMBERS = (OverrideLexer.INT, OverrideLexer.FLOAT)
OF_VALUES = ("choice", "sort", "shuffle", "str", "tag", "extend_list")  # functions of Hydra's that hand their arguments on
LIKE_NUMBERS = re.compile(r"\d|inf|nan", re.I)
WHOLE = re.compile(r"0|-?[1-9]\d*")  # reads the same as a number and as a text
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name")  # texts among Hydra's own settings


def of_roots(words: Sequence[str]) -> list[str]:
    """``words`` with quotes around the numbers of root knobs and of Hydra's folders that are texts: sign by sign, as typed."""
    return [_kept(word, lambda key: str if key in FOLDERS else ACCEPTED.get(key, Any)) for word in words]


def as_typed(words: Sequence[str], extra: Sequence[Path] = ()) -> list[str]:
    """``words``, checked ones, with quotes around numbers where a chosen option takes a text; imports its class to know.

    ``extra``: folders laid out like ``conf/``, searched first. Raises `UserError` for an experiment that sweeps over such numbers,
    and for a file of one's own in which YAML reads them as others.
    """
    ours_alone = search_path(extra) == [CONF]
    if ours_alone and all(_quoted(word) == word and not word.startswith("experiment=") for word in words):
        return list(words)
    known = {name: choices(name, extra) for name in groups(extra)}
    ours = [override for override in map(read, words) if override is not None and not is_hydras(override)]
    options = {group: chosen(group, ours, known, extra) for group in known}

    def kind(key: str) -> Any:
        return Any if key in known else kind_of(key, options, known, extra)

    check_numbers(options, kind, {override.key_or_group for override in ours}, known, extra)
    for name in options["experiment"]:
        params = OmegaConf.select(load_option("experiment", name, extra), "hydra.sweeper.params") or {}
        for key, value in params.items():
            if (kept := _kept(word := f"{key}={value}", kind)) != word:
                raise UserError(
                    f"{known['experiment'][name]}: hydra.sweeper.params: {word}: texts that look like numbers stand in quotes of "
                    f'two kinds; write {key}: "{kept.partition("=")[2]}"'
                )
    return [_kept(word, kind) for word in words]


def _kept(word: str, kinds: Callable[[str], Any]) -> str:
    """``word`` with its numbers in quotes where its key (``kinds``: what each takes) takes all its values as texts."""
    quoted = _quoted(word)
    if quoted == word or (plain := read(word)) is None or (texts := read(quoted)) is None:
        return word
    kind = kinds(plain.key_or_group)
    wanted = any(_becomes_text(kind, value) for value in values(plain))
    return quoted if wanted and all(takes(kind, value) for value in _unquoted(texts)) else word


def _becomes_text(kind: Any, value: Any) -> bool:
    """Whether a value as Hydra reads it is no value of that kind, or one that a text is made of."""
    try:
        return made_text(held(kind, value, ""), value)
    except UserError:
        return True


def _unquoted(override: Override) -> list[Any]:
    return [[getattr(one, "text", one) for one in value] if isinstance(value, list) else value for value in values(override)]


def _quoted(word: str) -> str:
    """``word`` with the numbers among its values in quotes, unless each is a whole one that reads the same as a text."""
    places = _places(word) if LIKE_NUMBERS.search(word.partition("=")[2]) else []
    if all(WHOLE.fullmatch(word[start:stop]) for start, stop in places):
        return word
    for start, stop in reversed(places):
        word = f"{word[:start]}'{word[start:stop]}'{word[stop:]}"
    return word


def _places(word: str) -> list[tuple[int, int]]:
    """Where in ``word`` there are numbers that stand for themselves; none where Hydra cannot read it."""
    lexer = OverrideLexer(InputStream(word))
    parser = OverrideParser(CommonTokenStream(lexer))
    visitor = _Numbers(create_functions())
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(HydraErrorListener())
    try:
        visitor.visit(parser.override())
    except (HydraException, AssertionError):
        return []
    return sorted(visitor.found)


class _Numbers(HydraOverrideVisitor):
    """Hydra's own reader, which notes where the numbers among the values stand."""

    def __init__(self, functions: Any) -> None:
        super().__init__(functions)
        self.found: set[tuple[int, int]] = set()

    def visitFunction(self, ctx: Any) -> Any:
        before = set(self.found)
        made = super().visitFunction(ctx)
        if ctx.getChild(0).getText() not in OF_VALUES:  # such as range(1,4): numbers of its own
            self.found = before
        return made

    def visitPrimitive(self, ctx: Any) -> Any:
        value = super().visitPrimitive(ctx)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.found |= {(one.symbol.start, one.symbol.stop + 1) for one in ctx.getChildren() if one.symbol.type in NUMBERS}
        return value
