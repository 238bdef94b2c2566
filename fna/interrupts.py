"""^C is one line and exit status 130, also while the rest of a command is still being imported: here next to nothing is."""

import sys
from importlib import import_module
from typing import NoReturn

INTERRUPTED = 130  # as shells have it of ^C


def run(module: str, then: str = "the same command starts anew") -> NoReturn:
    """Import ``module`` and leave with what its ``main`` returns; ``then``: what ^C leaves."""
    try:
        sys.exit(import_module(module).main())
    except KeyboardInterrupt:
        print(f"interrupted: {then}", file=sys.stderr)
        sys.exit(INTERRUPTED)
