"""``python -m fna``: the same command as ``fna`` and ``run.py``, from its first import on."""

import sys

INTERRUPTED = 130  # as shells have it of ^C


def main() -> None:
    """Run the command; ^C while it is still being imported is a line too."""
    try:
        from fna.runner.cli import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted: nothing has run yet, the same command starts anew", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
