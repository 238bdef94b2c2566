"""Visual question answering: every question answered greedily, scored by the rule of its data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fna.data.asked import AskedDataset, Scoring
from fna.data.base import Asked, Dataset
from fna.data.loading import picture
from fna.errors import UserError
from fna.folders import cache_folder
from fna.metrics.vqa import clash, figures, misfit, scores, tally
from fna.models.base import Model
from fna.tasks import answers
from fna.tasks.answers import answered, generated, turns_before
from fna.tasks.base import FULL, Array, Outcome, Run, Told
from fna.tasks.cache import digest_of
from fna.tasks.exhibits import Sections, Show
from fna.tasks.images import readable
from fna.values import Count, counted

TIMED = 8  # tokens of an answer in what is timed
DIFFICULT, SIMPLE = "difficult", "simple"


@dataclass
class VisualQuestions:
    """``suffix``, ``longest`` (tokens of an answer at most) and ``scoring``: None for the data set's own.

    ``turn``: 2 asks each question behind another one about its image, whose right answer is given, so that a policy has compressed
    the prompt before the question is known. ``smaller``: predictions.jsonl of a run whose last variant saw a smaller image;
    questions that it got wrong are "difficult", the others "simple", as in A-VL. ``answers``: the folder where answers are kept as
    they come; None: in the cache.
    """

    suffix: str | None = None
    longest: Count | None = None
    scoring: Scoring | None = None
    turn: Literal[1, 2] = 1
    smaller: str | None = None
    answers: str | None = field(default=None, repr=False)
    version: int = 3
    _timed: Any = field(default=None, repr=False)
    asks: ClassVar[type] = Asked
    needs: ClassVar[frozenset[str]] = frozenset({"answer"})

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model that sees or says nothing, or data without questions."""
        if model.answer is None:
            raise UserError(f"{model.name} answers no questions: task=vqa needs a vision-language model, such as model=llava.")
        if not dataset.examples or not all(isinstance(example, Asked) for example in dataset.examples):
            raise UserError(f"{dataset.name} holds no questions about images: task=vqa reads dataset=vqav2, questions, ...")
        scoring = self._way(dataset)[2]
        for example in dataset.examples:
            if why := misfit(scoring, example.answers):
                raise UserError(
                    f"{dataset.name}: question {example.key} cannot be scored by {scoring}: {why}; choose another task.scoring."
                )
        if why := clash([example.kind for example in dataset.examples], (SIMPLE, DIFFICULT) if self.smaller else ()):
            raise UserError(f"{dataset.name}: {why}.")

    def check_files(self) -> None:
        """Raise `UserError` for predictions that are not there."""
        if self.smaller is not None:
            _difficulty(Path(self.smaller))

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The questions that `first` has prepared, from pixels to a few tokens of an answer: what is timed."""
        return lambda places: self.write(model, places, lambda: None)

    def write(self, model: Model, given: Tensor, told: Told) -> Tensor:
        """`forward`, telling of each token."""
        return generated(model.answer, self._timed, TIMED, TIMED, told=told)[0]

    def first(self, model: Model, dataset: Dataset, count: int) -> Tensor:
        """Prepares the first ``count`` readable questions for `forward`; int64 ``[count]``, their places."""
        examples = readable(dataset, count)
        pictures = [picture(example) for example in examples]
        self._timed = answers.asked(model.answer, examples, pictures, self._way(dataset)[0])
        return torch.arange(len(examples), device=model.device)

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """Every question, in batches; what was answered before under the same variant is taken as it was."""
        self.check(model, dataset)
        suffix, longest, scoring = self._way(dataset)
        skipped: list[str] = []
        file = self._file(model, dataset, run)
        before = turns_before(dataset.examples) if self.turn == 2 else None
        told = answered(model.answer, dataset.examples, suffix, longest, file, run, skipped, before)
        by_key = {example.key: example for example in dataset.examples}
        examples, said = [by_key[one.key] for one in told], [one.said for one in told]
        counts = tally(scoring, [one.answers for one in examples], said, [one.kind for one in examples], self._groups(examples))
        return Outcome(
            keys=[one.key for one in told],
            counts={**counts, "kept": np.array([one.kept for one in told])},
            outputs=np.array([[one.sure] for one in told], np.float32),
            decisions=np.array([_number(text) for text in said]),
            labels=said,
            truths=[max(one.answers, key=one.answers.count) for one in examples],
            skipped=sorted(skipped),
        )

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """See `fna.metrics.vqa.figures`; ``kv_megabytes`` that the cache holds of a prompt, mean."""
        return {**figures(sums), "kv_megabytes": sums["kept"] / sums["asked"] / 1e6}

    def exhibits(self, show: Show) -> Sections:
        """``predictions.jsonl``, a line for each variant and question, and a file of answers for each in the submission form."""
        by_key = {example.key: example for example in show.dataset.examples}
        scoring, lines = self._way(show.dataset)[2], []
        for number, one in enumerate(show.passes):
            told = [(by_key[key], said) for key, said in zip(one.outcome.keys, one.outcome.labels, strict=True)]
            asked = [example for example, _ in told]
            groups = self._groups(asked)
            right = scores(scoring, [each.answers for each in asked], one.outcome.labels, [each.kind for each in asked])
            for place, (example, said) in enumerate(told):
                line = {"variant": one.label, "key": example.key, "question": example.question, "kind": example.kind}
                line |= {"answers": example.answers, "said": said, "right": float(right[place])}
                lines.append(line | {"scoring": scoring} | ({"group": groups[place]} if groups else {}))
            if isinstance(show.dataset, AskedDataset) and show.dataset.submit is not None:
                show.write(f"submission_{number}.json", show.dataset.submit(told).encode())
        show.write("predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        return {}

    def _way(self, dataset: Dataset) -> tuple[str, int, Scoring]:
        """Suffix, longest answer and rule, the task's own before the data set's."""
        own = dataset if isinstance(dataset, AskedDataset) else AskedDataset("", "", "", "", ())
        suffix = own.suffix if self.suffix is None else self.suffix
        return suffix, self.longest or own.longest, self.scoring or own.scoring

    def _file(self, model: Model, dataset: Dataset, run: Run) -> Path:
        """Where the answers of this variant are kept: the untouched model's by what decides them, others by their row's key."""
        decides: dict[str, Any] = {"variant": run.variant, "way": [*self._way(dataset)[:2], self.turn], "version": self.version}
        if run.variant == FULL:
            decides |= {"model": model.identity, "data": dataset.digest, "device": model.device.type}
        folder = cache_folder() / "answers" if self.answers is None else Path(self.answers)
        return folder / f"{digest_of(decides)}.jsonl"

    def _groups(self, examples: list[Asked]) -> list[str]:
        """Difficult or simple, where that is asked for. Raises `UserError` for a question that the smaller image was not asked."""
        if self.smaller is None:
            return []
        right = _difficulty(Path(self.smaller))
        lacking = [one.key for one in examples if one.key not in right]
        if lacking:
            raise UserError(
                f"task.smaller={self.smaller}: has no answer to {counted(len(lacking), 'question')} (first: {lacking[0]}); run it "
                "on these."
            )
        if other := next((one for one in examples if right[one.key][1] != one.question), None):
            raise UserError(
                f"task.smaller={self.smaller}: its question {other.key} is another one ({right[other.key][1]!r}, here "
                f"{other.question!r}); give the predictions of a run on these questions."
            )
        return [SIMPLE if right[one.key][0] else DIFFICULT for one in examples]


def _difficulty(file: Path) -> dict[str, tuple[bool, str]]:
    """Whether each question was answered rightly (at least one half) by the last variant of a file of predictions, and its text."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        last = [line for line in lines if line["variant"] == lines[-1]["variant"]]
        return {str(line["key"]): (float(line["right"]) >= 0.5, str(line["question"])) for line in last}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"task.smaller={file}: no predictions.jsonl of a run of task=vqa ({error!r}).") from error


def _number(text: str) -> int:
    """An answer as a number, for agreement: the same for the same words, whatever the case."""
    return int.from_bytes(hashlib.sha256(text.strip().lower().encode()).digest()[:7], "big")
