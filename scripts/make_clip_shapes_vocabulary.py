"""Byte-pair merges for clip_shapes: open_clip's own tokenizer, but a table in which every word of ours is one token.

    python scripts/make_clip_shapes_vocabulary.py [FOLDER]

Other words still work: they fall apart into letters. Prints the size of the table, which the model's config repeats.
"""

import gzip
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from fna.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES

FOLDER = Path(__file__).parents[1] / "fna/models/zoo/clip_shapes"
OTHERS = """
    a an the of in on at to and is are it with than there no yes not or one two three four five six
    top bottom left right middle above below larger smaller background shape shapes thing things
    photo picture image drawing what where which how many colour color does same as has have its
"""
PLURALS = (*(shape + "s" for shape in SHAPES if shape != "cross"), "crosses")
WORDS = (*COLOURS, *SHAPES, *PLURALS, *SIZES, *TEXTURES, *OTHERS.split())


def merges_for(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merge the commonest neighbours until every word is one symbol; replaying the list does the same."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while any(len(symbols) > 1 for symbols in split.values()):
        pairs = Counter(pair for symbols in split.values() for pair in pairwise(symbols))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, symbols in split.items():
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            split[word] = merged
    return merges


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    merges = merges_for(tuple(dict.fromkeys(WORDS)))
    text = "\n".join(["#version: clip_shapes", *(" ".join(pair) for pair in merges)])
    (folder / "merges.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(merges)} merges, {2 * 256 + len(merges) + 2} tokens")
