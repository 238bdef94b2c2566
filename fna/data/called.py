"""Words that name the parts of a data set, and folders that are called so: splits, and parts of other layouts."""

from __future__ import annotations

import re

OF_A_WHOLE = frozenset(
    {"train", "training", "trn", "trainval", "val", "valid", "validation", "dev", "test", "testing", "tst", "eval", "evaluation"}
)
SPLITS = frozenset(
    OF_A_WHOLE
    | {"holdout", "fold", "split", "subset", "set", "query", "queries", "gallery", "labeled", "labelled", "unlabeled", "unlabelled"}
)
BESIDE = frozenset(
    {"data", "dataset", "folder", "dir", "files", "pictures", "pics", "photos", "crops", "samples", "raw", "new", "a", "b"}
)
PARTS = frozenset({"images", "image", "img", "imgs", "labels", "masks", "annotations", "ann"})  # of data with another layout

_SPLIT, _PART = (rf"(?:{'|'.join(sorted(words, key=len, reverse=True))})" for words in (SPLITS, PARTS))
_REST = rf"(?:{'|'.join(sorted(SPLITS | PARTS | BESIDE, key=len, reverse=True))}|[\W\d_])*"
SPLIT, PART = (re.compile(rf"{_REST}{word}{_REST}", re.I) for word in (_SPLIT, _PART))


def splits(names: list[str]) -> list[str]:
    """Those that are called as splits are: train2017, val_256, fold-0, testset, validation_images, seg_train beside seg_test.

    my-train alone is none.
    """
    of_a_pair = paired(names)
    return [name for name in names if SPLIT.fullmatch(name) or name in of_a_pair]


def paired(names: list[str]) -> set[str]:
    """Names of which another differs in the word for a split alone: cat_train and cat_test."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = re.findall(r"[^\W\d_]+", name.lower())
        own = [word for word in words if word in OF_A_WHOLE]
        if len(own) == 1 < len(words):
            found.setdefault(tuple("" if word in OF_A_WHOLE else word for word in words), {})[name] = own[0]
    return {name for alike in found.values() if len({*alike.values()}) > 1 for name in alike}


def parts(names: list[str]) -> list[str]:
    """Those that are called as parts of another layout are, and no split besides: images, masks_2."""
    return [name for name in names if PART.fullmatch(name) and not SPLIT.fullmatch(name)]
