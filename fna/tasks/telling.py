"""Who wants to know of each token while transformers' ``generate`` writes."""

from __future__ import annotations

from typing import Any

from fna.tasks.base import Told


class Telling:
    """A ``streamer`` for ``generate`` that keeps nothing: the first thing it is given is the prompt, then come the tokens."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.begun = False

    def put(self, ids: Any) -> None:
        """The prompt's ids, or the next token of each row."""
        if self.begun:
            self.told()
        self.begun = True

    def end(self) -> None:
        """Nothing is held back."""
