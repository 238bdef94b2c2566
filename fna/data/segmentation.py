"""Label maps: images beside PNGs of class values, read by each data set's own convention.

What differs between ADE20K, COCO-Stuff, Cityscapes, PASCAL VOC and CamVid is where the files lie and what the values mean, so each
is a YAML file for one reader. Values become classes by one rule: the classes take the values 0, 1, 2, ... in order, skipping those
that are ``ignored`` (they become 255 and count nowhere) and those that are ``absent`` (they must not occur). ADE20K ignores 0, so
that 1 is its first class; COCO-Stuff has eleven absent values. A value that is neither is an error that names the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from PIL import Image

from fna.data import files
from fna.data.base import Dataset, Segmented, taught
from fna.data.files import UNREADABLE
from fna.data.label_values import IGNORE, VALUES, binary_note, grey_note, lookup, read_values, to_classes, unlike
from fna.data.layouts import check_split_name, looks_like, refuse_no_root, to_learn_from
from fna.data.pictures import files_below, is_hidden, is_picture, system_note, unread_note
from fna.data.places import composed, existing
from fna.data.variants import Declared, refuse_by_name, refuse_by_values, refuse_moved_colours
from fna.errors import UserError
from fna.values import Domain, Limit, Says, between, counted

Array = np.ndarray
LOOKED_AT = 64  # label maps, from all over the split, whose values are held against the declaration at load
Label = Annotated[int, between(0, VALUES - 1)]
CLASS_FILES = Path(__file__).parent / "classes"
LISTS = tuple(sorted(file.stem for file in CLASS_FILES.glob("*.txt")))
ClassList = Annotated[str, Limit("", lambda name: name in LISTS), Says(f"one of {', '.join(LISTS)}")]


@dataclass
class SegmentedDataset(Dataset[Segmented]):
    """Segmented examples with what reads their label maps: int64 ``[H, W]``, classes and 255 (ignored).

    ``training`` gives the examples that a head may be trained on, None where there are none.
    """

    read_labels: Callable[[Segmented], Array] = field(kw_only=True)
    training: Callable[[], SegmentedDataset] | None = field(default=None, kw_only=True)


def learning(data: SegmentedDataset, source: Any, train: str | None) -> SegmentedDataset:
    """``data``, read by ``source``, with the split ``train`` of the same to learn from, where that is another one."""
    other = to_learn_from(train, data.split)
    if other is not None:
        data.training = lambda: taught(replace(source, split=other, train=None).load(None), data, other)
    return data


@dataclass(frozen=True)
class LabelMaps:
    """A folder of images and a folder of label maps with the same names.

    ``images`` and ``labels`` are paths below ``root`` in which ``{split}`` and ``{name}`` are filled in; a name may hold folders.
    ``listing`` is a text file of names, None to take every image that is there. ``classes``: names in order, or the name of a list
    that comes with fna. ``ignored`` and ``absent`` are label values as in the module's rule. ``train`` is the split for heads.
    """

    name: str
    root: str
    split: str
    images: str
    labels: str
    classes: Sequence[str] | ClassList
    ignored: Sequence[Label] = (IGNORE,)
    absent: Sequence[Label] = ()
    train: str | None = None
    listing: str | None = None
    domain: Domain = "photographs"
    gives: ClassVar[type] = Segmented

    def __post_init__(self) -> None:
        for knob, pattern in (("images", self.images), ("labels", self.labels), ("listing", self.listing or "")):
            rest = pattern.replace("{split}", "")
            times = rest.count("{name}")
            wrong = {"images": times != 1, "labels": times == 0, "listing": times > 0}[knob]
            if wrong or set("{}") & set(rest.replace("{name}", "")):
                places = "{split} where it counts" if knob == "listing" else "{name} once, {split} where it counts"
                raise ValueError(f"dataset.{knob}={pattern}: give a path with {places}, and no other brace.")

    def check(self) -> None:
        """Raise `UserError` where the root is missing or holds something else, or another variant of the labels."""
        check_split_name(self.split)
        check_split_name(self.train, "dataset.train")
        if self.labels == self.images:
            raise UserError(f"dataset.labels={self.labels}: these are the images themselves; give the path of their label maps.")
        if (count := len(class_names(self.classes))) > IGNORE:
            raise UserError(
                f"dataset.classes: {count} names; {IGNORE} at most, since {IGNORE} is what is ignored: give fewer classes."
            )
        refuse_by_name(self._declared())
        root, stems = Path(self.root), [_stem(path) for path in (self.images, self.labels)]
        if looks_like(root) in (None, self.name):
            for stem in stems:
                check_split(root, stem, self.split)
        check_folder(self.name, root, [stem.format(split=self.split) for stem in stems])

    def load(self, limit: int | None) -> SegmentedDataset:
        """The examples of the split, in the order of their names (or of the listing).

        Raises `UserError` where a label map of those that are looked at holds what the declaration does not know, or all are
        another variant's. One that is not looked at is refused in the pass that reads it, by its name and value.
        """
        self.check()
        examples = self._examples(self.split)[:limit]
        _refuse_other_sizes(examples)
        values = self._hold_against(_some(examples))
        data = SegmentedDataset(
            name=self.name,
            split=self.split,
            domain=self.domain,
            digest=files.digest(self.split, examples, besides=self._reading()),
            examples=examples,
            classes=class_names(self.classes),
            notes=[*self._unread(), *grey_note([one.labels for one in _some(examples)]), *binary_note(values, self.ignored)],
            read_labels=self.read_labels,
        )
        return self._as_coloured(learning(data, self, self.train))

    def read_labels(self, example: Segmented) -> Array:
        """int64 ``[H, W]`` of classes and 255; raises `UserError` naming the file for a value that no class has."""
        return to_classes(read_values(example.labels), self._lookup(), example.labels, self.name)

    def _reading(self) -> list[str]:
        """What the values of label maps become, in words: heads that were trained on another reading are others."""
        return [*class_names(self.classes), f"ignored {sorted(self.ignored)}", f"absent {sorted(self.absent)}"]

    def _declared(self) -> Declared:
        return Declared(self.name, self.labels, {*self.ignored}, {*self.absent})

    @staticmethod
    def _as_coloured(data: SegmentedDataset) -> SegmentedDataset:
        """``data``; the label maps to learn from are held against its own too, as far as colours of palettes go."""
        learn = data.training
        if learn is None:
            return data

        def learnt() -> SegmentedDataset:
            found = learn()
            refuse_moved_colours(_values([*_some(data.examples), *_some(found.examples)]))
            return found

        data.training = learnt
        return data

    def _hold_against(self, examples: Sequence[Segmented]) -> set[int]:
        """The values of these label maps, once nothing speaks against them."""
        found = _values(examples)
        values = {int(value) for each in found.values() for value in each}
        refuse_by_values(self._declared(), values, str(next(iter(found))))
        refuse_moved_colours(found)
        for file, each in found.items():
            to_classes(each, self._lookup(), file, self.name)
        return values

    def _unread(self) -> list[str]:
        """Pictures beside those that the pattern takes, and label maps without an image, which are left out."""
        if self.listing is not None:
            return []
        folder, suffix = (Path(self.root) / self.images.format(split=self.split, name="{name}")).as_posix().split("{name}")
        if not folder.endswith("/"):
            return []
        beside = [path for path in files_below(Path(folder)) if not path.name.endswith(suffix)]
        of_others = [path for path in beside if is_picture(path) and path.suffix != Path(suffix).suffix]
        notes = [f"{counted(len(of_others), 'picture')} left out: not ending in {suffix}"] if of_others else []
        return [*notes, *unread_note(beside), *system_note(Path(folder)), *self._without_image()]

    def _without_image(self) -> list[str]:
        images, labels = (path.format(split=self.split, name="{name}") for path in (self.images, self.labels))
        if labels.count("{name}") != 1:
            return []
        pictured = {*map(composed, names_below(Path(self.root), images))}
        bare = [name for name in names_below(Path(self.root), labels) if composed(name) not in pictured]
        return [f"{counted(len(bare), 'label map')} without an image left out (first: {bare[0]})"] if bare else []

    def _lookup(self) -> Array:
        return lookup(len(class_names(self.classes)), self.ignored, self.absent)

    def _examples(self, split: str) -> list[Segmented]:
        root = Path(self.root)
        pattern = self.images.format(split=split, name="{name}")
        names = self._listed(split) if self.listing else self._names(split)
        examples = [
            Segmented(name, *(existing(root / path.format(split=split, name=name)) for path in (self.images, self.labels)))
            for name in names
        ]
        missing = [file for example in examples for file in (example.image, example.labels) if not file.is_file()]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            mend = "take out what has no label map, or give the names that have both with dataset.listing=FILE"
            if self.listing:
                mend = f"each line of {self.listing.format(split=split)} stands for {{name}} in {self.images} and {self.labels}"
            raise UserError(
                f"{self.name}: {counted(len(missing), 'file')} of split {split} {are} missing, the first is {missing[0]}; {mend}."
            )
        if not examples:
            raise UserError(f"{self.name}: no images {root / pattern}{self._others(split)}.")
        return examples

    def _others(self, split: str) -> str:
        """What to give where the pattern's folder holds pictures of another suffix."""
        start = self.images.partition("{name}")[0]
        folder = Path(self.root) / _stem(self.images).format(split=split)
        endings = Counter(path.suffix for path in files_below(folder) if is_picture(path))
        if not endings:
            return ", nor any other picture there: give dataset.images" * folder.is_dir()
        ending = max(endings, key=endings.__getitem__)
        return f"; there {counted(endings[ending], 'picture')} end in {ending}: give 'dataset.images=\"{start}{{name}}{ending}\"'"

    def _names(self, split: str) -> list[str]:
        """Of every image that is there; a label map beside it that its pattern takes too (a_mask.png by {name}.png) is none."""
        found = names_below(Path(self.root), self.images.format(split=split, name="{name}"))
        labels = {self.labels.format(split=split, name=name) for name in found}
        return [name for name in found if self.images.format(split=split, name=name) not in labels]

    def _listed(self, split: str) -> list[str]:
        assert self.listing is not None
        file = Path(self.root) / self.listing.format(split=split)
        if not file.is_file():
            raise UserError(f"{self.name}: {file} is missing; it lists the images of split {split}.")
        names = [name for line in files.read_text(file).split("\n") if (name := line.strip())]  # names may hold blanks
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise UserError(f"{file}: {twice} is listed twice; list each image once.")
        return names


def _some(examples: Sequence[Segmented]) -> Sequence[Segmented]:
    """From all over a split, as many as are looked at."""
    return examples[:: max(1, len(examples) // LOOKED_AT)]


def _values(examples: Sequence[Segmented]) -> dict[Path, Array]:
    """The values that occur in each label map."""
    return {example.labels: np.unique(read_values(example.labels)) for example in examples}


def _refuse_other_sizes(examples: Sequence[Segmented]) -> None:
    """Raise `UserError` for the first label map of another size than its image, by their headers; unreadable ones come later."""
    for example in examples:
        try:
            with Image.open(example.image) as image, Image.open(example.labels) as labels:
                size, own = image.size, labels.size
        except UNREADABLE:
            continue
        if size != own:
            raise unlike(example, size, own)


def class_names(classes: Sequence[str] | str) -> list[str]:
    """The names themselves, or those of a list that comes with fna (its last column)."""
    if not isinstance(classes, str):
        return list(classes)
    if classes not in LISTS:
        raise UserError(f"dataset.classes={classes}: no such list of names; give [name,name,...] or {' or '.join(LISTS)}.")
    lines = (CLASS_FILES / f"{classes}.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[-1] for line in lines]


def names_below(root: Path, pattern: str) -> list[str]:
    """What ``{name}`` stands for in the files that exist, sorted; it may span folders."""
    before, suffix = pattern.split("{name}")
    above, _, start = before.rpartition("/")
    found = (file.relative_to(root / above).as_posix() for file in files_below(root / above))
    named = (name for name in found if name.startswith(start) and name.endswith(suffix))
    return sorted(name.removeprefix(start).removesuffix(suffix) for name in named)


def check_split(root: Path, stem: str, split: str) -> None:
    """Raise `UserError` where a folder that is a split's own is not there and those of other splits are: their names."""
    above, _, _ = stem.partition("{split}")
    parent = (root / above).parent if above and not above.endswith("/") else root / above
    if above == stem or (root / stem.format(split=split)).is_dir() or not parent.is_dir():
        return
    there = sorted(path.name for path in parent.iterdir() if path.is_dir() and not is_hidden(path.name))
    if there:
        raise UserError(
            f"dataset.split={split}: no folder {root / stem.format(split=split)}; beside it there is {', '.join(there[:6])}."
        )


def check_folder(name: str, root: Path, needed: Sequence[str]) -> None:
    """Raise `UserError` unless ``root`` holds the ``needed`` files or folders; say what it looks like instead."""
    if not root.is_dir():
        refuse_no_root(root, name)
    missing = [path for path in needed if not (root / path).exists()]
    if missing:
        other = looks_like(root)
        names = sorted(path.name for path in root.iterdir() if not is_hidden(path.name))
        there = f"it holds {', '.join(names[:6])}{', ...' * (len(names) > 6)}" if names else "it is empty"
        guess = f"it looks like {other}" if other and other != name else f"{there}: give another dataset.root or dataset.split"
        raise UserError(f"dataset.root={root}: not {name}, which has {missing[0]}; {guess}.")


def _stem(path: str) -> str:
    """The folder of a path template above the part that differs between samples."""
    return path.split("{name}")[0].rpartition("/")[0]
