"""A module and a loader of one's own as model, data and task: what `fna.compare` runs on."""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fna.data.base import Dataset, Given
from fna.errors import UserError
from fna.metrics.accuracy import top_k
from fna.metrics.neighbours import ONE_NUMBER, nearest_other
from fna.models.base import Model, Weights
from fna.ops.contract import Tokens
from fna.surgery.blocks import find_tower
from fna.tasks.base import Array, Outcome, Run
from fna.tasks.own_tokens import as_seen as as_seen

FIRST = 64  # samples held in memory: to time on, to calibrate on, to show
OUTPUTS = ("logits", "image_embeds", "pooler_output", "last_hidden_state")  # of transformers' models, the best first
TOPS = ("top1", "top5")
ROUNDING = 1e-3  # that a probability in half precision may be above 1
SPENT = "it is exhausted: hand over one that can be gone through again, a DataLoader or list(...) of its batches."
SPARSE = 4  # times as many outputs as the targets name: these may be no classes
NEAREST = (
    "the model does not say that its outputs are classes (num_classes): agreement is of the nearest other sample; of a classifier "
    'take metric="top1", or set num_classes on it'
)
NAMELESS = "metric"  # one that has no name
SAMPLES = "(samples)"  # the count that means are taken over: called as no function can be

Forward = Callable[[Tensor], Tensor]
Metric = Callable[[Tensor, Any], Any]


@dataclass
class Own:
    """``loader`` is gone through once a pass; ``forward`` maps a batch of images to outputs ``[b, ...]``.

    ``metric(outputs, targets)`` gives a number a sample ``[b]``, 0 for wrong to 1 for right, reported as a mean in percent, or with
    ``lower_is_better`` the other way round; "top1" and "top5" take targets as class numbers. None: outputs are compared and
    nothing is scored. Decisions are classes where outputs are logits, else which other sample is nearest (as in
    `fna.tasks.fidelity`).
    """

    loader: Iterable[Any]
    forward_images: Forward
    metric: str | Metric | None = None
    lower_is_better: bool = False
    version: int = 3
    _name: str = field(default="", repr=False)
    _keys: frozenset[str] = field(default=frozenset(), repr=False)  # of the first pass
    _declared: bool = field(default=False, repr=False)  # whether the module says that it has as many classes as outputs
    _highest: int = field(default=-1, repr=False)  # of the targets

    def __post_init__(self) -> None:
        if isinstance(self.metric, str) and self.metric not in TOPS:
            raise UserError(f"metric={self.metric}: give {' or '.join(TOPS)}, or a function of outputs and targets.")
        if self.lower_is_better and not callable(self.metric):
            given = "none is given" if self.metric is None else f"metric={self.metric} counts what is right"
            raise UserError(f"lower_is_better=True: is of a metric of your own, and {given}; leave it out.")
        self._name = _metric_name(self.metric)

    def check(self, model: Model, dataset: Dataset) -> None:
        """Nothing can be known before the first batch."""

    def forward(self, model: Model) -> Forward:
        """The user's own."""
        return self.forward_images

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the loader. Samples are told by their pixels, so that it may come in another order each time."""
        keys: list[str] = []
        outputs: list[Array] = []
        values: list[Array] = []
        seen: Counter[str] = Counter()
        with torch.inference_mode(), run.sharing():
            for images, targets in pairs(self.loader):
                out = tensor_of(self.forward_images(images.to(model.device, model.dtype, copy=True)))  # which models may work on
                if out.shape[:1] != images.shape[:1]:
                    raise UserError(f"the model gives outputs {list(out.shape)} for {len(images)} images: hand over forward=.")
                keys += _keys(images, targets, seen)
                outputs.append(_rows(out))
                if self.metric is not None:
                    values.append(self._scored(out, targets))
                run.progress(len(images))
        if not keys:
            raise UserError(f"the loader gave batches once and none in this pass: {SPENT}")
        self._keys = self._keys or frozenset(keys)
        if self._keys != frozenset(keys):
            raise UserError(
                "the loader gives other images in each pass, which cannot be compared: hand over one without augmentation or "
                "anything else that is drawn anew (shuffling alone does no harm, with drop_last=True it does)."
            )
        flat = np.concatenate(outputs)
        counts = {SAMPLES: np.ones(len(keys))} | ({self._name: np.concatenate(values)} if values else {})
        self._declared = _declares(model.tower, out)
        if flat.shape[1] > 1 and (self.metric in TOPS or self._declared):  # outputs of a head
            decisions = flat.argmax(1)
            labels = [str(row) for row in decisions]
        else:
            decisions, ranked = nearest_other(flat, keys), sorted(keys)
            labels = [ranked[place] for place in decisions]
        return Outcome(keys, counts, flat, decisions, labels, [""] * len(keys))

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """The mean of the metric in percent."""
        return {name: 100.0 * values / sums[SAMPLES] for name, values in sums.items() if name != SAMPLES}

    @property
    def _called(self) -> str:
        return "the metric" if self._name == NAMELESS else f"metric {self._name}"

    @property
    def errors(self) -> tuple[str, ...]:
        """Metrics of which less is better."""
        return (self._name,) if self.lower_is_better else ()

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """What is less, what agreement is of where that is not classes, and targets that leave most outputs without a class."""
        classes = 0 if outcome.outputs is None else outcome.outputs.shape[1]
        few = self.metric in TOPS and not self._declared and 0 <= SPARSE * self._highest < classes - SPARSE
        told = (
            f"{self._name}: {classes} outputs, and no target is above {self._highest}: it counts right if the model has {classes} "
            "classes in the targets' order; if its outputs are an embedding, leave metric out"
        )
        near = classes > 1 and not (self.metric in TOPS or self._declared)
        return [
            *(f"{name}: less is better" for name in self.errors),
            *[told] * few,
            *[ONE_NUMBER] * (classes == 1),
            *[NEAREST] * near,
        ]

    def _scored(self, out: Tensor, targets: Any) -> Array:
        if targets is None:
            raise UserError("metric= needs targets: have the loader give (images, targets).")
        if isinstance(self.metric, str):
            labels = np.asarray(targets.cpu() if isinstance(targets, Tensor) else targets)
            if labels.shape != (len(out),) or labels.dtype.kind not in "iu":
                raise UserError(f"metric={self.metric} takes one class number a sample; the targets are {_said(targets)}.")
            logits = _rows(out)
            if out.dim() > 1 and logits.shape[1] != out.shape[1]:
                raise UserError(
                    f"metric={self.metric}: the model gives {list(out.shape[1:])} a sample, not one score a class: hand over "
                    "forward= that does (a mean over places, say), or a metric of your own."
                )
            if logits.shape[1] == 1:
                raise UserError(
                    f"metric={self.metric}: the model gives one number a sample, no choice of a class: give a metric of your own."
                )
            foreign = labels[(labels < 0) | (labels >= logits.shape[1])]
            if foreign.size:
                raise UserError(
                    f"metric={self.metric}: target {foreign[0]} is none of {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}."
                )
            self._highest = max(self._highest, int(labels.max()))
            k = int(self.metric.removeprefix("top"))
            if k >= logits.shape[1]:
                raise UserError(
                    f"metric={self.metric}: of {logits.shape[1]} classes the first {k} always hold the right one; take top1."
                )
            return top_k(logits, labels, (k,))[k].astype(np.float64)
        assert self.metric is not None
        try:
            given = self.metric(out.clone(), targets)  # it may work in place
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{self._called} fails on outputs {list(out.shape)} and {_said(targets)}: {type(error).__name__}: {error} "
                f"({at.filename}:{at.lineno})"
            ) from error
        found = np.asarray(given.detach().float().cpu() if isinstance(given, Tensor) else given)
        if found.shape != (len(out),) or found.dtype.kind not in "iufb":
            raise UserError(f"{self._called} gave {_said(given)} for {len(out)} samples: give one number a sample.")
        if not np.isfinite(found).all():
            none = f"{(~np.isfinite(found)).sum()} of {len(out)} samples"
            raise UserError(f"{self._called} gave NaN or infinity for {none}: give each a number, or leave these out.")
        if outside := found[(found < -ROUNDING) | (found > 1 + ROUNDING)].tolist():
            ends = "0 (right) to 1 (wrong)" if self.lower_is_better else "0 (wrong) to 1 (right)"
            raise UserError(
                f"{self._called} gave {outside[0]:g}: give numbers from {ends}, which are reported in percent; of a loss "
                f"{'1 - ' if self.lower_is_better else ''}(-loss).exp(), of percents a hundredth."
            )
        return found.astype(np.float64)


def _rows(out: Tensor) -> Array:
    """Outputs ``[b, ...]`` as float32 ``[b, C]``; one number a sample, ``[b]``, is a column, a complex one two."""
    out = torch.view_as_real(out.resolve_conj()) if out.is_complex() else out
    return out.to_dense().float().reshape(len(out), -1).cpu().numpy()


def _declares(module: nn.Module, out: Tensor) -> bool:
    """Whether a module says that it has as many classes as its outputs ``[b, C]`` have columns."""
    classes = {getattr(module, "num_classes", None), getattr(getattr(module, "config", None), "num_labels", None)}
    return out.dim() == 2 and out.shape[1] in classes


def _metric_name(metric: str | Metric | None) -> str:
    """What a metric is called in tables: as it was named or defined; "metric" of one that has no name."""
    if metric is None or isinstance(metric, str):
        return metric or ""
    function = getattr(metric, "func", metric)  # of functools.partial what it calls
    named = str(getattr(function, "__name__", type(function).__name__))
    return NAMELESS if named == "<lambda>" else named


def pairs(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Any]]:
    """(images, targets or None) of every batch of a loader. Raises `UserError` for ones without images, or of another size."""
    first: tuple[int, ...] = ()
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise UserError(f"loader={loader!r}: give one that can be gone through, such as a DataLoader.")
    if isinstance(loader, Iterator) and type(loader).__module__ in ("builtins", "itertools"):  # others may begin anew
        raise UserError(f"the loader is a {type(loader).__name__}: after one pass {SPENT}")
    for batch in loader:
        images, *rest = batch if isinstance(batch, list | tuple) and batch else [batch]
        if isinstance(batch, Mapping):
            images, rest = batch.get("pixel_values"), [batch.get("labels")]
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise UserError(
                f"each batch of the loader has to be images [b, 3, h, w], or (images, targets); this is {_said(batch)}."
            )
        if not images.is_floating_point():
            raise UserError(
                f"the loader's images are {images.dtype}: give what the model is given, floats that went through its transform."
            )
        if not len(images):
            continue
        if odd := int((~images.isfinite()).flatten(1).any(1).sum()):
            raise UserError(
                f"the loader's images hold NaN or infinity ({odd} of {len(images)} in a batch): mend its transform, or drop them."
            )
        first = first or tuple(images.shape[1:])
        if images.shape[1:] != first:
            other, shape = (" x ".join(map(str, sizes)) for sizes in (images.shape[1:], first))
            raise UserError(f"a batch of the loader has images of {other} after ones of {shape}: give all one size.")
        yield images, rest[0] if rest else None


def _said(value: Any) -> str:
    """What something is, in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} {list(value.shape)} of {value.dtype}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))}, of which pixel_values and labels would be read"
    if isinstance(value, list | tuple):
        inside = ", ".join(dict.fromkeys(type(one).__name__ for one in value))
        return f"a {type(value).__name__} of {len(value)}{f' ({inside})' if inside else ''}"
    return "None" if value is None else f"a {type(value).__name__}"


def tensor_of(out: Any) -> Tensor:
    """A model's output as a tensor: itself, the part that is by its name most an answer, the first of a tuple or list, the only one
    of a dict. Raises `UserError` where there is none."""
    if isinstance(out, Tensor):
        return out
    named = [out.get(name) if isinstance(out, Mapping) else getattr(out, name, None) for name in OUTPUTS]
    first = list(out.values()) if isinstance(out, Mapping) and len(out) == 1 else out[:1] if isinstance(out, list | tuple) else ()
    found = next((part for part in (*named, *first) if part is not None), None)
    if found is None:
        raise UserError("the model's output is no tensor: hand over forward=, a function of images that gives one.")
    return tensor_of(found)


def own_model(model: nn.Module, images: Tensor, name: str, forward: Forward) -> Model:
    """What fna has to know of a module: where its blocks are, and what one of the loader's images is to it."""
    tower = find_tower(model)
    parameter = next(model.parameters())
    rows, columns = int(images.shape[-2]), int(images.shape[-1])
    return Model(
        name=name,
        tower=model,
        weights=Weights("as handed over", "", "photographs"),
        transform=lambda image: image,  # type: ignore[arg-type,return-value]  # the loader's images are transformed already
        image_size=(rows, columns),
        tokens=Tokens(tower.prefix, grid=tower.grid),
        depth=len(tower.blocks),
        device=parameter.device,
        dtype=parameter.dtype,
        encode_image=forward,
    )


def own_dataset(loader: Iterable[Any], name: str) -> tuple[Dataset, int | None]:
    """The first samples of a loader, and how many there are in all, where it says so. Raises `UserError` for an empty loader."""
    first: list[Given] = []
    seen: Counter[str] = Counter()
    for images, targets in pairs(loader):
        some = images[: FIRST - len(first)]
        first += [Given(key, image.detach().cpu()) for key, image in zip(_keys(images, targets, seen), some, strict=False)]
        if len(first) == FIRST:
            break
    if not first:
        raise UserError("the loader gives no batch.")
    held: Any = getattr(loader, "dataset", None)
    return Dataset(name, "none", "photographs", "", first), len(held) if hasattr(held, "__len__") else None


def _keys(images: Tensor, targets: Any, seen: Counter[str]) -> list[str]:
    """A name for each sample, made of its pixels and its target where that is a number or an array; equal ones are numbered.

    A picture that comes twice with different targets is two samples: numbered alone, they would change places with the order.
    """
    found = torch.as_tensor(targets) if _is_array(targets) else torch.empty(0)
    beside: Iterable[Tensor] = found if found.shape[:1] == images.shape[:1] else torch.empty(len(images), 0)
    names = []
    for image, target in zip(images, beside, strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for part in (image, target):
            digest.update(part.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
        name = digest.hexdigest()
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def _is_array(targets: Any) -> bool:
    """Whether targets are numbers, of which torch makes one tensor."""
    numbers = isinstance(targets, list | tuple) and all(isinstance(one, int | float) for one in targets)
    return isinstance(targets, Tensor) or numbers or (isinstance(targets, np.ndarray) and targets.dtype.kind in "iufb")
