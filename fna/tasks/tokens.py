"""What the tokens do: how many are massive and how many are artifacts, how large they grow, who looks at them.

Runs on any images; labels are not looked at. The detailed study of a few images (norms by category, where they sit, suppression,
rank curves) is `fna.tasks.study`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from fna.data.base import Dataset
from fna.errors import UserError
from fna.masking.sinks import ARTIFACT, MASSIVE, NORMAL, categories
from fna.masking.strategy import Masking
from fna.models.base import Model
from fna.surgery.probe import Records, recording
from fna.tasks import token_pictures
from fna.tasks.base import Array, Outcome, Run
from fna.tasks.cache import digest_of
from fna.tasks.calibration import calibrated, run_images
from fna.tasks.exhibits import Sections, Show
from fna.values import Count, between


@dataclass
class Tokens:
    """``seek`` says what counts as massive and as a sink (a `Masking`; what it would hide is left alone).

    ``study``: on how many images the detailed study is made, 0 for none; ``ranks``: those of its rank curves.
    """

    seek: Masking = field(default_factory=Masking)
    study: Annotated[int, between(0, 10_000)] = 16
    ranks: tuple[Count, ...] = (1, 2, 4, 8)
    version: int = 2
    needs: ClassVar[frozenset[str]] = frozenset({"encode_image"})
    ready: dict[str, Masking] = field(default_factory=dict, repr=False)

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model without CLS, whose sinks this cannot seek, or without the blocks to seek in."""
        if model.tokens.prefix < 1:
            raise UserError(f"{model.name} has no CLS token: task=tokens asks what CLS looks at; choose another model.")
        self.seek.check(model.depth)

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The image tower."""
        return run_images(model)

    def prepare(self, model: Model, dataset: Dataset, run: Run) -> str:
        """Calibrate on the untouched model; both variants are then judged alike."""
        seek = self.seeking(model, dataset)
        return digest_of({"seek": repr(seek), "version": seek.version})

    def seeking(self, model: Model, dataset: Dataset) -> Masking:
        """`seek`, calibrated for this model once; always for both kinds of token."""
        key = model.weights.digest
        if key not in self.ready:
            found = calibrated(replace(self.seek, tokens="both"), model, dataset)
            assert isinstance(found, Masking)
            self.ready = {key: found}
        return self.ready[key]

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the images, whatever attention is in force."""
        self.check(model, dataset)
        seek = self.seeking(model, dataset)
        skipped: list[str] = []
        kept: list[int] = []
        parts: list[dict[str, Array]] = []

        def keep(records: Records) -> None:
            parts.append(counted(records, model, seek))

        watched = recording(model.tower, keep, streams=("leaving",), calls=("cls_gives",), seek=seek)
        with torch.inference_mode(), watched:
            for batch in run.batches(dataset.examples, model.transform, skipped):
                if batch.indices:
                    self.forward(model)(batch.images.to(model.device, model.dtype))
                    kept += batch.indices
                run.progress(batch.tried)
        counts = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        outputs = counts.pop("outputs")
        massive, artifact = counts["massive"].astype(int), counts["artifact"].astype(int)
        return Outcome(
            keys=[dataset.examples[index].key for index in kept],
            counts=counts,
            outputs=outputs,
            decisions=massive,
            labels=[f"{m} massive, {a} artifact" for m, a in zip(massive, artifact, strict=True)],
            truths=[""] * len(kept),
            skipped=skipped,
        )

    def exhibits(self, show: Show) -> Sections:
        """The study of a few images: ``tokens.json``, and pictures with their tokens marked."""
        return (
            {"tokens": token_pictures.draw(show, self.seeking(show.model, show.dataset), self.study, tuple(self.ranks))}
            if self.study
            else {}
        )

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """Tokens an image by category; images with any, and CLS attention in the block of detection, in percent; norms there."""
        images = sums["images"]
        return {
            "massive_per_image": sums["massive"] / images,
            "artifact_per_image": sums["artifact"] / images,
            "images_with_massive": 100.0 * sums["any_massive"] / images,
            "cls_on_massive": 100.0 * sums["cls_on_massive"] / images,
            "cls_on_artifact": 100.0 * sums["cls_on_artifact"] / images,
            "largest_norm": sums["largest"] / images,
            "normal_norm": sums["normal_norm"] / images,
        }


def counted(records: Records, model: Model, seek: Masking) -> dict[str, Array]:
    """What each image adds to the sums, ``[b]`` each, and mean and largest patch norms leaving every block ``[b, 2 blocks]``.

    Tokens that test-time registers append come last and do not count.
    """
    records = {name: values[..., : model.token_count] for name, values in records.items()}
    kind = categories(records["massive"], records["sinks"], model.tokens)
    detect = seek.window(model.depth)[1]
    given = records["cls_gives"][:, detect]
    norms = records["leaving"].float()
    end = norms.shape[-1] - model.tokens.suffix
    patches = norms[..., model.tokens.prefix : end]
    of = {number: kind == number for number in (MASSIVE, ARTIFACT, NORMAL)}
    entering = norms[:, detect - 1] if detect else norms[:, 0]
    columns = {
        "images": torch.ones(len(kind)),
        "massive": of[MASSIVE].sum(1),
        "artifact": of[ARTIFACT].sum(1),
        "any_massive": of[MASSIVE].any(1),
        "cls_on_massive": (given * of[MASSIVE]).sum(1),
        "cls_on_artifact": (given * of[ARTIFACT]).sum(1),
        "largest": entering[:, model.tokens.prefix : end].amax(1),
        "normal_norm": (entering * of[NORMAL]).sum(1) / of[NORMAL].sum(1).clamp_min(1),
        "outputs": torch.cat([patches.mean(-1), patches.amax(-1)], dim=1),
    }
    return {name: value.float().cpu().numpy() for name, value in columns.items()}
