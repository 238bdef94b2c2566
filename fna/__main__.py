"""``python -m fna``: the same command as ``fna`` and ``run.py``, from its first import on."""

from fna.interrupts import run


def main() -> None:
    """Run the command; ^C while it is still being imported is a line too."""
    run("fna.runner.cli", then="nothing has run yet, the same command starts anew")


if __name__ == "__main__":
    main()
