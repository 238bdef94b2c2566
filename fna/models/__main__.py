"""``python -m fna.models``: the choices of ``model=`` with what their files say of them, tokens included. Loads no torch."""

from __future__ import annotations

from fna.configs import CONF, choices, summary


def listed() -> list[str]:
    """A line for each file of ``conf/model``: its name and its first comment."""
    return [f"{name:26s}{summary(CONF / 'model' / f'{name}.yaml')}" for name in choices("model")]


if __name__ == "__main__":
    print("\n".join(listed()))
