"""A model that transformers itself loads, from a folder or the hub: whole and of the right shapes, or one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fna.errors import UserError, is_memory
from fna.models.weights import downloading, first_line


@contextmanager
def reading(folder: Path | None, name: str) -> Iterator[None]:
    """Let transformers read ``folder`` (or file), or fetch ``name`` from the hub (None): whatever it raises becomes one line."""
    if folder is None:
        with downloading(f"model.checkpoint={name}"):
            yield
        return
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a damaged file its readers raise whatever its bytes lead to
        if is_memory(error):
            raise
        raise UserError(
            f"{folder}: transformers cannot read it ({first_line(error)}); fetch it again, or save it again with save_pretrained."
        ) from error


def pretrained(kind: Any, where: str, **options: Any) -> Any:
    """``kind.from_pretrained(where)``. Raises `UserError` for tensors that are missing or of another shape.

    transformers draws missing ones at random, and says so in its log alone.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of missing tensors is told below in a line
    try:
        net, told = kind.from_pretrained(where, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    finally:
        logging.set_verbosity(before)
    if other := sorted(told["mismatched_keys"]):
        name, found, wanted = other[0]
        raise UserError(
            f"{where}: {name} is {list(found)}, expected {list(wanted)} by its config.json ({len(other)} of another shape); give "
            "the config that was saved with the weights."
        )
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"{where}: of its tensors {len(missing)} are missing (first: {missing[0]}); fetch it again.")
    return net
