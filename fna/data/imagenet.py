"""ImageNet-1k and the sets made to test its classifiers, in the layouts that people have, labels checked and never assumed.

A label is the place of a class's WordNet id among the 1,000 in ascending order, as every published head has it. The list comes with
fna (ids as in ILSVRC2012, names as curated by OpenAI for CLIP, MIT), so a folder of something else is found out.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fna.data import files
from fna.data.bank import LabelledDataset, cut, part_note
from fna.data.base import NO_SPLIT, Labelled, taught
from fna.data.layouts import check_split_name, looks_like, refuse_no_root, split_folder
from fna.data.pictures import files_below, files_in, is_hidden, is_picture, packed_note, stray_note, system_note, unread_note
from fna.data.segmentation import CLASS_FILES
from fna.errors import UserError
from fna.values import Count, Domain

LIST = str(CLASS_FILES / "imagenet.txt")
FLAT = "ILSVRC2012_val_{:08d}.JPEG"
FLATS = "ILSVRC2012_val_*.JPEG"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"
# of the 200-class subsets: the sum of their classes' places among the 1,000
SUBSETS = {"imagenet_a": 102_178, "imagenet_r": 86_135}
ONE_SPLIT = frozenset({"imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch"})  # their archives hold class folders only


@dataclass(frozen=True)
class ImageNet:
    """``name`` says which set: imagenet, imagenet_v2, imagenet_r, imagenet_a or imagenet_sketch; all but V2 are folders by WordNet
    id, in ``root/<split>/`` or, with ``split`` null and for the sets that have no splits, in ``root``. imagenet's val may also be
    the flat 50,000 images, beside the development kit (with its meta.mat) or Kaggle's LOC_val_solution.csv. ``train``: the split
    to learn from; ``bank``: instead of it, the first so many images of each class.
    """

    root: str
    split: str | None = "val"
    train: str | None = None
    name: str = "imagenet"
    domain: Domain = "photographs"
    bank: Count | None = None
    gives: ClassVar[type] = Labelled

    def check(self) -> None:
        """Raise `UserError` where the root is missing or holds something else."""
        if not Path(self.root).is_dir():
            refuse_no_root(Path(self.root), self.name)
        folder = self._folder()
        if not _is_flat(folder):
            self._class_folders(folder, files.read_classes(LIST)[0])

    def load(self, limit: int | None) -> LabelledDataset:
        """The images in the order of their class folders, or of their numbers where they lie flat."""
        self.check()
        if self.bank is not None:
            return cut(self._read(None), self.bank, limit)
        data, train = self._read(limit), self.train
        if train is not None and train != self.split:
            data.training = lambda: taught(self._learnt(train), data, train)
        return data

    def _learnt(self, train: str) -> LabelledDataset:
        split_folder(Path(self.root), train, "dataset.train")
        return replace(self, split=train, train=None).load(None)

    def _read(self, limit: int | None) -> LabelledDataset:
        ids, names = files.read_classes(LIST)
        folder = self._folder()
        places, notes = self._flat(folder, ids) if _is_flat(folder) else self._folders(folder, ids)
        if self.name in SUBSETS:
            kept = sorted({label for _, label in places})
            ids, names = [ids[label] for label in kept], [names[label] for label in kept]
            places = [(path, kept.index(label)) for path, label in places]
        split = self.split or NO_SPLIT
        whole = [Labelled(path.relative_to(folder).as_posix(), path, label) for path, label in places]
        examples = files.first(whole, limit)
        return LabelledDataset(
            name=self.name,
            split=split,
            domain=self.domain,
            digest=files.digest(split, examples),
            examples=examples,
            classes=names,
            class_ids=ids,
            notes=[*notes, *part_note(examples, whole)],
        )

    def _folder(self) -> Path:
        """Where the class folders or the flat images lie. Raises `UserError` for a split that is not there."""
        check_split_name(self.split)
        root = Path(self.root)
        inner = root / (self.split or "")
        numbered = self.split == "val" and _is_flat(root)  # these names say which split it is
        return root if not inner.is_dir() and (self.name in ONE_SPLIT or numbered) else split_folder(root, self.split)

    def _folders(self, folder: Path, ids: Sequence[str]) -> tuple[list[tuple[Path, int]], list[str]]:
        """(image, label) of every class folder, and what is to be noted."""
        label = self._class_folders(folder, ids)
        below = [(path, place) for inner, place in label.items() for path in files_below(folder / inner)]
        images = [(path, place) for path, place in below if is_picture(path)]
        if not images:
            raise UserError(f"dataset.root={self.root}: its class folders hold no image; unpack {self.name} again.")
        shown = sorted({place for _, place in images})
        files_there = [path for path, _ in below]
        left_out = [*unread_note(files_there), *packed_note([*files_in(folder), *files_there]), *stray_note(folder)]
        return images, [*self._missing_classes(shown), *left_out, *system_note(folder)]

    def _class_folders(self, folder: Path, ids: Sequence[str]) -> dict[str, int]:
        """Class folders in the order of their labels. V2's are called by number: "10" is class 10, wherever a listing puts it."""
        expected = [str(number) for number in range(len(ids))] if self.name == "imagenet_v2" else ids
        there = {path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)}
        found = {name: label for label, name in enumerate(expected) if name in there}
        foreign = sorted(there - found.keys())
        if not found or foreign:
            other = looks_like(folder) or looks_like(Path(self.root))
            guess = f"; it looks like {other}" if other and other != self.name else ""
            lower = folder / foreign[0] if len(there) == 1 else folder
            if lower != folder and any((lower / name).is_dir() for name in expected):
                split = lower.relative_to(self.root).as_posix()
                raise UserError(
                    f"dataset.root={self.root}: its classes lie one level below, in {lower}: give dataset.split={split}."
                )
            stray = f"{foreign[0]} is none of its classes" if foreign else f"no folder {expected[0]}"
            raise UserError(f"dataset.root={self.root}: not {self.name}, {stray}{guess}.")
        return found

    def _missing_classes(self, labels: list[int]) -> list[str]:
        """Refuse a subset of the wrong classes; note classes that are not there at all."""
        if self.name in SUBSETS:
            if len(labels) != 200 or sum(labels) != SUBSETS[self.name]:
                raise UserError(
                    f"dataset.root={self.root}: its {len(labels)} classes are not the 200 of {self.name}; unpack it again."
                )
            return []
        missing = 1000 - len(labels)
        return [f"{missing} of ImageNet's 1,000 classes have no images here: figures do not compare with published ones"] * (
            missing > 0
        )

    def _flat(self, folder: Path, ids: Sequence[str]) -> tuple[list[tuple[Path, int]], list[str]]:
        """(image, label) of the flat layout, by number."""
        images = sorted(path for path in folder.iterdir() if path.suffix == ".JPEG" and not is_hidden(path.name))
        labels = self._kaggle(ids) or self._devkit(ids)
        missing = [path.name for path in images if path.stem not in labels]
        if missing:
            raise UserError(f"{folder}: {len(missing)} images have no label (first: {missing[0]}).")
        notes = [] if len(images) == 50_000 else [f"{len(images)} of ILSVRC2012's 50,000 validation images"]
        return [(path, labels[path.stem]) for path in images], notes

    def _kaggle(self, ids: Sequence[str]) -> dict[str, int]:
        file = next((path for path in Path(self.root).rglob(KAGGLE)), None)
        if file is None:
            return {}
        labels: dict[str, int] = {}
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                for row in (reader := csv.DictReader(opened)):
                    image, words = row.get("ImageId"), (row.get("PredictionString") or "").split()
                    if not image or not words:
                        raise UserError(f"{file}, line {reader.line_num}: no ImageId and PredictionString; fetch it again.")
                    label = _place(ids, words[0], file)
                    if labels.setdefault(image, label) != label:
                        raise UserError(f"{file}, line {reader.line_num}: {image} has another class above; give each image one.")
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not a CSV ({error}); fetch it again.") from error
        return labels

    def _devkit(self, ids: Sequence[str]) -> dict[str, int]:
        """Labels by the development kit. Its class numbers are its own, not the order of ids: meta.mat says which is which."""
        truth = next((path for path in Path(self.root).rglob(TRUTH)), None)
        if truth is None:
            raise UserError(
                f"dataset.root={self.root}: flat images need {TRUTH} with meta.mat (ILSVRC2012_devkit_t12) or {KAGGLE}."
            )
        wnid = _read_meta(truth.parent / "meta.mat")
        try:
            named = [wnid[int(word)] for word in files.read_text(truth).split()]
        except (ValueError, KeyError) as error:
            raise UserError(f"{truth}: not a class number of meta.mat on each line ({error}); unpack it again.") from error
        return {FLAT.format(place)[:-5]: _place(ids, name, truth) for place, name in enumerate(named, 1)}


def _is_flat(folder: Path) -> bool:
    """Whether this holds validation images, or some of them, and no class folders: moving them into folders may have stopped."""
    return any(folder.glob(FLATS)) and not any(folder.glob("n????????/"))


def _read_meta(file: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> WordNet id of the 1,000 classes that are leaves."""
    if not file.is_file():
        raise UserError(f"{file} is missing; it says which class each number of the ground truth is.")
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(file), squeeze_me=True)["synsets"]
        wnid = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in synsets if int(entry["num_children"]) == 0}
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise UserError(f"{file}: cannot be read ({error}); unpack the development kit again.") from error
    if len(wnid) != 1000:
        raise UserError(f"{file}: holds {len(wnid)} classes, not 1,000; unpack the development kit again.")
    return wnid


def _place(ids: Sequence[str], wnid: str, file: Path) -> int:
    if wnid not in ids:
        raise UserError(f"{file}: {wnid} is none of ImageNet's 1,000 classes.")
    return ids.index(wnid)
