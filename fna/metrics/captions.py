"""CIDEr-D of captions, by pycocoevalcap (Vedantam et al. 2015, arXiv 1411.5726), which is imported when it is needed.

Document frequencies come from the references of the images at hand, so that figures of different subsets cannot be compared, and
that of a single image is 0 whatever was said. Words are split by the Penn Treebank tokenizer that the package brings along, which
runs in Java; where there is none `plain_words` stands in, which changes figures by a few tenths, and a warning says so.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fna.errors import UserError

Array = np.ndarray
WORD = re.compile(r"n't|'s|'re|'ve|'ll|'d|'m|[a-z0-9]+(?=n't)|[a-z0-9]+(?:[-.][a-z0-9]+)*")


def cider(references: Sequence[Sequence[str]], said: Sequence[str]) -> Array:
    """Of each image, float64 ``[n]``, 1 where published tables have 100. Raises `UserError` where the package is missing."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise UserError("scoring=cider: needs pycocoevalcap, which is not installed: pip install pycocoevalcap.") from error
    truths = _words({str(place): list(told) for place, told in enumerate(references)})
    own = _words({str(place): [text] for place, text in enumerate(said)})
    scores: Any = Cider().compute_score(truths, own)[1]
    return np.asarray(scores, np.float64)


def plain_words(text: str) -> str:
    """Lower case, no punctuation, 's and n't words of their own; without their hyphens apart."""
    return " ".join(WORD.findall(text.lower()))


def _words(texts: dict[str, list[str]]) -> dict[str, list[str]]:
    """Captions by image as words between blanks."""
    flat = {key: [" ".join(one.split()) or "." for one in told] for key, told in texts.items()}
    if shutil.which("java") is None:
        warnings.warn("no Java for pycocoevalcap's tokenizer: words are split by a plain rule, CIDEr is tenths off", stacklevel=2)
        return {key: [plain_words(one) for one in told] for key, told in flat.items()}
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found: dict[str, list[str]] = PTBTokenizer().tokenize({key: [{"caption": one} for one in told] for key, told in flat.items()})
    return found
