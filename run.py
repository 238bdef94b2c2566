"""The command line: ``python run.py model=clip attn=fna landmarks=64``. Everything else is in ``fna.runner``."""

from fna.__main__ import main

if __name__ == "__main__":
    main()
