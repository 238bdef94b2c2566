"""What the commands beside ``fna`` share: words that cannot be used are one line and exit status 1, as everywhere."""

from __future__ import annotations

import argparse
from typing import NoReturn

from fna.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusal is a `UserError`, in place of its usage and an exit status of its own."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with what is wrong and where the words are listed."""
        raise UserError(f"{message}; {self.prog} --help lists what there is.")
