"""Whether two texts are the same to a reader, how they agree word by word, and whether a name is one."""

from __future__ import annotations

import re
from collections import Counter

# what stands in the place of a name with a number beside it: class_3
HOLDERS = {
    *("class", "classes", "cls", "klass", "klasse", "classe", "clase", "label", "lbl", "category", "id", "idx", "index", "group"),
    *("cluster", "folder", "type", "kind", "no", "nr", "num"),
}
# identifiers that a machine made: a UUID, eight or more hexadecimal digits with a figure among them, a WordNet id
MADE = re.compile(r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[a-f]*\d)[0-9a-f]{8,}|n\d{8})\b")
SUFFIX = re.compile(r"(?<=\w)\.(?:jpe?g|png|gif|bmp|tiff?|webp|npy|txt|csv|xml|json|zip|tar|gz|tgz)$")  # of a file


def folded(text: str) -> str:
    """A text without its case and the width of its blanks, which no CLIP's tokenizer keeps: texts that are equal so are one."""
    return " ".join(text.casefold().split())


def has_word(name: str) -> bool:
    """Whether a name says anything: 001, class_3, c0, B, n02085620, 7.jpg and a hash do not; label, no and other letters do."""
    bare = MADE.sub(" 0 ", SUFFIX.sub("", folded(name.replace("_", " "))))
    words = [word for word in re.findall(r"[^\W\d]+", bare) if any(map(str.isalpha, word))]
    letters = [word for word in words if len(word) == 1 and word.isascii()]
    stand_ins = [word for word in words if word in HOLDERS]
    numbered = bool(letters) or re.search(r"\d", bare) is not None
    return len(words) > len(letters) + len(stand_ins) * numbered


def word_f1(told: str, reference: str) -> float:
    """Harmonic mean of the shares of words that each has in common with the other, 0 to 1; case and punctuation do not count.

    A word said twice counts twice. Two texts without words agree. As SQuAD's F1 (Rajpurkar et al. 2016), articles kept.
    """
    both = [Counter(re.findall(r"\w+", text.lower())) for text in (told, reference)]
    total = sum(count.total() for count in both)
    return 2.0 * (both[0] & both[1]).total() / total if total else 1.0
