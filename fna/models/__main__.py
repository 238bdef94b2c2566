"""``python -m fna.models``: the choices of ``model=`` with what their files say of them, tokens included. Loads no torch."""

from __future__ import annotations

from fna.configs import CONF, choices, summary
from fna.streams import never_fail


def listed() -> list[str]:
    """A line for each file of ``conf/model``: its name and its first comment."""
    return [f"{name:26s}{summary(CONF / 'model' / f'{name}.yaml')}" for name in choices("model")]


if __name__ == "__main__":
    never_fail()
    print("\n".join(listed()))
