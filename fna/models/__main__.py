"""``python -m fna.models``: the choices of ``model=`` with what their files say of them, tokens included. Loads no torch."""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take a while
    run("fna.models.__main__")

import sys

from fna.commands import Parser
from fna.configs import CONF, choices, summary
from fna.errors import UserError
from fna.streams import never_fail


def listed() -> list[str]:
    """A line for each file of ``conf/model``: its name and its first comment."""
    return [f"{name:26s}{summary(CONF / 'model' / f'{name}.yaml')}" for name in choices("model")]


def main(words: list[str] | None = None) -> int:
    """Prints them; exit status 1 and one line for words, of which it takes none."""
    never_fail()
    try:
        Parser("python -m fna.models", description=(__doc__ or "").partition("\n")[0]).parse_args(words)
        print("\n".join(listed()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
