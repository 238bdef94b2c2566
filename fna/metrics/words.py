"""Whether two texts are the same to a reader, and how they agree word by word."""

from __future__ import annotations

import re
from collections import Counter


def folded(text: str) -> str:
    """A text without its case and the width of its blanks, which no CLIP's tokenizer keeps: texts that are equal so are one."""
    return " ".join(text.casefold().split())


def word_f1(told: str, reference: str) -> float:
    """Harmonic mean of the shares of words that each has in common with the other, 0 to 1; case and punctuation do not count.

    A word said twice counts twice. Two texts without words agree. As SQuAD's F1 (Rajpurkar et al. 2016), articles kept.
    """
    both = [Counter(re.findall(r"\w+", text.lower())) for text in (told, reference)]
    total = sum(count.total() for count in both)
    return 2.0 * (both[0] & both[1]).total() / total if total else 1.0
