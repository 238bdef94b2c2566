"""A KV policy in force on a model, and the cache for each prompt under whatever is in force.

A variant puts its policy on the module that it changes (`in_force`); who generates asks for a cache (`conversation`) and need not
know which policy that is, or whether there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from fna.errors import UserError
from fna.kv.contract import Prompt

_POLICY = "_fna_kv"


@contextmanager
def in_force(model: nn.Module, policy: Any) -> Iterator[None]:
    """``policy`` for every `conversation` with ``model`` until the context ends. Raises `UserError` where there is one already."""
    if policy_of(model) is not None:
        raise UserError(f"this model has a KV policy in force already ({policy_of(model)}); end that first.")
    vars(model)[_POLICY] = policy
    try:
        yield
    finally:
        vars(model).pop(_POLICY, None)


def policy_of(model: nn.Module) -> Any:
    """The policy in force, None where the cache is left alone."""
    return vars(model).get(_POLICY)


def conversation(model: nn.Module, prompt: Prompt | None = None) -> AbstractContextManager[Any]:
    """The cache to generate with for one prompt (or batch) and its turns; transformers' own where no policy is in force.

    ``model``: the module that the variant was put on. A policy may say in ``layers`` which blocks of the decoder it acts in.
    """
    from fna.surgery.cache import kept

    return kept(model, policy_of(model), prompt=prompt)
