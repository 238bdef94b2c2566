"""Image tokens drawn at random: the control that beat six of eight published pruners (UniPruneBench, arXiv:2511.02650)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fna.kv.image_tokens import Choice, ImageTokens, Picture
from fna.ops.seeded import uniform


@dataclass(frozen=True)
class RandomTokens(ImageTokens):
    """The draw depends on ``seed`` and the number of tokens alone: the same for every image of a size."""

    seed: int = 0
    version: ClassVar[int] = 1

    def choose(self, picture: Picture, count: int) -> Choice:
        """``count`` tokens, each as likely."""
        order = uniform((picture.count,), "kv", self.seed, picture.count).argsort()
        return Choice(order[:count].sort().values.to(picture.hidden.device))
