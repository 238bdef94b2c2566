"""``python -m fna``: the same command as ``fna`` and ``run.py``."""

from fna.runner.cli import main

if __name__ == "__main__":
    main()
