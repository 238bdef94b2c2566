"""Text-to-image and image-to-text retrieval: R@1, R@5, R@10 both ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fna.data.base import Captioned, Dataset
from fna.errors import UserError
from fna.metrics.recall import alike, hits_per_group, search
from fna.metrics.words import folded
from fna.models.base import Model
from fna.tasks.base import Array, Outcome, Run
from fna.tasks.images import look
from fna.tasks.texts import Template, note_cut, note_spelt, sentence

KS = (1, 5, 10)
SHARED = 0.1  # of the captions: a larger share that stands with several images is noted


@dataclass
class Retrieval:
    """Every caption seeks its image among all, every image any of its captions among all; similarity is the cosine.

    A caption that equals one's own is as right: an image may find it, and it may find any image that has it.
    ``prompt`` wraps each caption ("a photo of {}"); none by default. Only the image tower varies between variants, so the texts
    are encoded once for given weights and captions.
    """

    prompt: Template = "{}"
    version: int = 4
    _texts: dict[object, Array] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        sentence(self.prompt, "task.prompt", "caption")

    asks: ClassVar[type] = Captioned
    needs: ClassVar[frozenset[str]] = frozenset({"encode_text"})

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for data without captions or a model without two towers."""
        if not dataset.examples or not all(isinstance(example, Captioned) for example in dataset.examples):
            raise UserError(f"{dataset.name} has no captions: task=retrieval cannot use it; task=fidelity needs none.")
        if model.encode_image is None or model.encode_text is None:
            raise UserError(
                f"{model.name} has no text tower: task=retrieval needs a CLIP-like model, such as model=clip; "
                "on images with classes there are task=knn and task=probe, on any task=fidelity."
            )
        note_cut(model, dataset, self._sentences(dataset.examples))
        captions = [caption for example in dataset.examples for caption in example.captions]
        note_spelt(model, dataset, captions, "take a model that reads this language")

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The image tower: the only part that varies between variants."""
        assert model.encode_image is not None
        return model.encode_image

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the images; the captions of an image that cannot be read are left out with it."""
        self.check(model, dataset)
        texts = self._text_vectors(model, dataset.examples)
        with run.sharing():
            seen = look(lambda images: _unit(self.forward(model)(images)), model, dataset, run)
        kept, images = seen.kept, seen.outputs
        examples: list[Captioned] = [dataset.examples[index] for index in kept]
        owner = np.repeat(np.arange(len(dataset.examples)), [len(example.captions) for example in dataset.examples])
        texts, owner = texts[np.isin(owner, kept)], np.searchsorted(kept, owner[np.isin(owner, kept)])
        n, own = len(kept), np.arange(len(kept))
        captions = [caption for example in examples for caption in example.captions]
        right = alike(captions, owner, n)
        text_ranks, _ = search(texts, images, right)
        image_ranks, firsts = search(images, texts, right.T.tocsr())
        return Outcome(
            keys=[example.key for example in examples],
            counts={
                "images": np.ones(n, np.int64),
                "captions": np.bincount(owner, minlength=n),
                "t2i_hits": hits_per_group(text_ranks, owner, n, KS),
                "i2t_hits": hits_per_group(image_ranks, own, n, KS),
            },
            outputs=images,
            decisions=firsts,
            labels=[captions[index] for index in firsts],
            truths=[example.captions[0] for example in examples],
            skipped=seen.skipped,
        )

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """``t2i_r1 t2i_r5 t2i_r10 i2t_r1 i2t_r5 i2t_r10`` in percent."""
        directions = (("t2i", "captions"), ("i2t", "images"))
        return {f"{way}_r{k}": 100.0 * sums[f"{way}_hits"][..., i] / sums[of] for way, of in directions for i, k in enumerate(KS)}

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """Where many captions are shared by images, of which any counts as right."""
        kept = set(outcome.keys)
        told = [caption for example in dataset.examples if example.key in kept for caption in set(map(folded, example.captions))]
        shared = sum(times for times in Counter(told).values() if times > 1)
        if shared <= SHARED * len(told):
            return []
        return [f"{shared} of {len(told)} captions are those of other images too, and each of these counts as right"]

    def _sentences(self, examples: Sequence[Captioned]) -> tuple[str, ...]:
        put = sentence(self.prompt, "task.prompt", "caption")
        return tuple(put(caption) for example in examples for caption in example.captions)

    def _text_vectors(self, model: Model, examples: Sequence[Captioned]) -> Array:
        """Unit vectors of all captions in order, float32 ``[T, E]``; those of the last weights and captions are kept."""
        assert model.encode_text is not None
        sentences = self._sentences(examples)
        key = (model.weights.digest, model.dtype, model.device, sentences)
        if key not in self._texts:
            with torch.inference_mode():
                self._texts = {key: _unit(model.encode_text(sentences)).cpu().numpy()}
        return self._texts[key]


def _unit(vectors: Tensor) -> Tensor:
    return normalize(vectors.float(), dim=-1)
