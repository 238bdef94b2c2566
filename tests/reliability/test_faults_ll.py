"""What other libraries do unasked, where fna must not follow: packed label maps, and classes that one split lacks (findings/)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.data.imagefolder import ImageFolder
from fna.data.segmentation import LabelMaps
from fna.errors import UserError

BITS = {2: 1, 4: 2, 11: 4, 16: 4, 17: 8}  # of a pixel, where Pillow writes so many colours


@pytest.mark.parametrize("classes", BITS)
def test_a_label_map_with_a_palette_of_few_colours_is_read_by_its_indices(classes: int, tmp_path: Path) -> None:
    """Pillow 12.3 packs two, four or eight pixels of 16 colours and fewer in a byte; a label is its index all the same."""
    values = np.random.default_rng(0).integers(0, classes, (6, 10), dtype=np.uint8)
    labels = Image.fromarray(values).convert("P")
    labels.putpalette([(37 * place) % 256 for place in range(3 * classes)])
    for folder, picture in (("images", Image.new("RGB", (10, 6))), ("labels", labels)):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "0.png")
    assert (tmp_path / "labels/0.png").read_bytes()[24] == BITS[classes], "Pillow packs pixels by itself"
    names = [f"class {number}" for number in range(classes)]
    data = LabelMaps("drawn", str(tmp_path), "val", "images/{name}.png", "labels/{name}.png", names).load(None)
    assert (data.read_labels(data.examples[0]) == values).all()


@pytest.mark.parametrize(("asked", "learnt"), [("val", "train"), ("train", "val")])
def test_a_split_that_lacks_a_class_of_the_other_is_refused_or_named_by_the_list(asked: str, learnt: str, tmp_path: Path) -> None:
    """datasets 5.2.0 names the labels of all parquet files as the first does: without cows in validation, its dogs are cows."""
    for split, names in (("train", "cat cow dog"), ("val", "cat dog")):
        for name in names.split():
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), (len(split), ord(name[1]), 0)).save(tmp_path / split / name / "0.png")
    with pytest.raises(UserError, match=r"classes are not the .* \(cow is in one only\): .* list them all with dataset\.classes="):
        ImageFolder(str(tmp_path), asked, train=learnt).load(None)
    (tmp_path / "classes.tsv").write_text("cat\tcat\ncow\tcow\ndog\tdog\n", encoding="utf-8")
    data = ImageFolder(str(tmp_path), asked, train=learnt, classes=str(tmp_path / "classes.tsv")).load(None)
    for part in (data, data.training()):
        assert all(part.class_ids[example.label] == example.image.parent.name for example in part.examples)
