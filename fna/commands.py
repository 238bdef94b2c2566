"""What the commands beside ``fna`` share: words that cannot be used are one line and exit status 1, as everywhere."""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn

from fna.errors import UserError


def check_here() -> None:
    """Raise `UserError` where the current folder is gone: no path can be looked for from there."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder is not there any more ({error.strerror}); cd to one that is.") from error


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusal is a `UserError`, in place of its usage and an exit status of its own."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's own, from a current folder that is there."""
        check_here()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with what is wrong and where the words are listed."""
        raise UserError(f"{message}; {self.prog} --help lists what there is.")
