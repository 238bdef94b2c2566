"""Which class each row of a classification head stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fna.errors import UserError
from fna.records import is_head, refuse_csv, regular

Classes = tuple[list[str] | None, list[str] | None]


def head_classes(net: Any, path: str | None) -> Classes:
    """Ids and names of the rows of a timm model's head: from a TSV, or from timm for heads of ImageNet and its subsets.

    (None, None) where nobody says. Raises `UserError` as `listed`.
    """
    return _imagenet(net) if path is None else listed(path, net.num_classes)


def listed(path: str, rows: int) -> tuple[list[str], list[str]]:
    """Ids and names of a head's ``rows`` from a TSV. Raises `UserError` as `read_classes`, and for another number of classes."""
    ids, names = read_classes(path)
    if len(ids) == rows + 1 and is_head(ids[0], names[0]):
        ids, names = ids[1:], names[1:]
    if len(ids) != rows:
        raise UserError(f"{path}: lists {len(ids)} classes, the model's head has {rows}; give a file of these.")
    return ids, names


def labels(config: Mapping[str, Any], count: int) -> list[str] | None:
    """The names that a Hugging Face config.json gives the ``count`` rows of a head, None for the ones that it makes up."""
    said = config.get("id2label") or {}
    names = [str(said.get(str(row), "")) for row in range(count)]
    named = len(said) == count > 0 and all(names) and names[0] != "LABEL_0"
    return names if named else None


def trained_note(config: Mapping[str, Any]) -> list[str]:
    """A note of a head whose highest row is no answer by its training: it may name several classes of an image, or quantities."""
    said = config.get("problem_type")
    meant = {
        "multi_label_classification": "each row by itself says whether an image shows its class (a sigmoid), and several may",
        "regression": "each row is a quantity, no class",
    }.get(str(said))
    if meant is None:
        return []
    return [
        f"config.json: problem_type is {said}: {meant}; here the highest row counts as the answer, and a softmax over all as "
        "probabilities"
    ]


def timm_labels(config: Mapping[str, Any], count: int) -> Classes:
    """Ids and names of the ``count`` rows of a head as timm's config.json has them: ``label_names``, a list or by row, which
    ``label_descriptions`` put in words, there or in its ``pretrained_cfg``. (None, None) where it says nothing, or another head."""
    inner = config.get("pretrained_cfg")
    config = {**inner, **config} if isinstance(inner, dict) else config  # timm's own field of either is in there
    said, words = config.get("label_names"), config.get("label_descriptions")
    if isinstance(said, dict):
        said = [said.get(str(row)) for row in range(len(said))]
    if not isinstance(said, list) or not len(said) == count > 0 or not all(isinstance(name, str) and name for name in said):
        return None, None
    words = words if isinstance(words, dict) else {}
    return said, [str(words.get(name, name)) for name in said]


def read_classes(path: str) -> tuple[list[str], list[str]]:
    """Ids and names in the lines of a TSV (id, name). Raises `UserError` for one that is unreadable, empty or repeats an id."""
    try:  # tools on Windows begin a file with a mark
        rows = [line.split("\t") for line in regular(Path(path)).read_text(encoding="utf-8-sig").split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give a TSV of class id and name with model.classes=PATH, or null."
        ) from error
    if not rows:
        raise UserError(f"{path}: holds no class; give a TSV of class id and name with model.classes=PATH, or null.")
    refuse_csv(["\t".join(row) for row in rows], path)
    ids = [row[0] for row in rows]
    if twice := next((name for name, times in Counter(ids).items() if times > 1), None):
        raise UserError(f"{path}: class {twice} stands there twice; give each row of the head an id of its own.")
    return ids, [row[-1] for row in rows]


def _imagenet(net: Any) -> Classes:
    """WordNet ids and names of a head trained on ImageNet or a subset that timm knows, else nothing."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(net) if net.num_classes > 0 else None
    if subset is None:
        return None, None
    info = ImageNetInfo(subset)
    return list(info.label_names()), list(info.label_descriptions(detailed=False, as_dict=False))
