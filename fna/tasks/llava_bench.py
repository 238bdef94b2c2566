"""LLaVA-Bench: open questions about images, answered by a model and judged by another beside reference answers.

Answering and judging are apart: answers are kept under the model and what is done to it, judgements under what the judge read, so
that a run goes on where another was stopped, and `python -m fna.judge` judges kept answers again without a model.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fna.data.base import Dataset, OpenQuestion
from fna.data.contents import sha256s
from fna.data.files import UNREADABLE
from fna.data.loading import none_read
from fna.data.pictures import open_image
from fna.errors import UserError
from fna.judge import tally
from fna.judge.judging import Judge, Matter
from fna.judge.ledger import Ledger
from fna.metrics.bert import bert_f1, check_bert
from fna.metrics.words import word_f1
from fna.models.base import Model
from fna.progress import say
from fna.surgery.cache import prompt_bytes, read_prompt
from fna.surgery.conversation import conversation
from fna.tasks.base import Array, Outcome, Run, Told
from fna.tasks.cache import digest_of
from fna.tasks.exhibits import Sections, Show
from fna.tasks.telling import Telling
from fna.values import Count, counted

BINS = 512  # of words by their hash: an answer as a vector, to tell how far two are apart
TIMED = 16  # tokens written behind the prompt in what is timed


@dataclass
class OpenAnswers:
    """``tokens``: of an answer at most, written greedily. ``cache``: the folder of the answers. ``judge``: without an address, what
    can be told without one is: the words in common with the reference answers. ``bert``: a folder or name of an encoder, for
    BERTScore of its layer ``bert_layer`` (None: the one that bert_score has for it by name, else the last)."""

    tokens: Count = 256
    cache: str = "outputs/answers"
    judge: Judge = field(default_factory=Judge)
    bert: str | None = None
    bert_layer: Count | None = None
    version: int = 2
    asks: ClassVar[type] = OpenQuestion
    needs: ClassVar[frozenset[str]] = frozenset({"answer"})

    def check_files(self) -> None:
        """Raise `UserError` for a judge that nobody could ask."""
        self.judge.check()
        if self.bert is not None:
            check_bert(self.bert)

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model that answers nothing about images, or for data without open questions."""
        if model.answer is None:
            raise UserError(f"{model.name} answers no questions about images: task=llava_bench needs model=llava or one like it.")
        if not dataset.examples or not all(isinstance(example, OpenQuestion) for example in dataset.examples):
            raise UserError(f"{dataset.name} holds no open questions: task=llava_bench reads dataset=llava_bench.")

    def first(self, model: Model, dataset: Dataset, count: int) -> Tensor:
        """The prompt that is timed, ids ``[1, P]``: the first question whose image can be read, whatever ``count`` says."""
        for example in dataset.examples:
            try:
                self._timed = model.answer.inputs([[open_image(example.image)]], [[(example.question, None)]])
                return self._timed["input_ids"]
            except UNREADABLE:
                continue
        raise none_read(dataset.examples, dataset.name)

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """The prompt of `first` and a few steps behind it: what is timed."""
        return lambda ids: self.write(model, ids, lambda: None)

    def write(self, model: Model, given: Tensor, told: Told) -> Tensor:
        """`forward`, telling of each token."""
        return _written(model, {**self._timed, "input_ids": given}, TIMED, TIMED, told)[0]

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """Every question answered, then judged."""
        self.check(model, dataset)
        skipped: list[str] = []
        lines = self.answers(model, dataset, run, skipped)
        answers = {key: line["text"] for key, line in lines.items()}
        if not answers:
            raise none_read(dataset.examples, dataset.name)
        asked = [example for example in dataset.examples if example.key in answers]
        told = [answers[example.key] for example in asked]
        f1 = np.array([word_f1(answer, example.reference) for answer, example in zip(told, asked, strict=True)])
        kept = np.array([lines[example.key]["kept"] for example in asked], np.float64)
        counts = {**self.judged(asked, told), "f1": f1, "questions": np.ones(len(asked)), "kept": kept}
        if self.bert is not None:
            counts["bert"] = bert_f1(told, [example.reference for example in asked], self.bert, self.bert_layer)
        decisions = np.array([int(hashlib.sha256(answer.encode()).hexdigest()[:15], 16) for answer in told])
        keys, references = [example.key for example in asked], [example.reference for example in asked]
        return Outcome(keys, counts, np.stack([_words(answer) for answer in told]), decisions, told, references, skipped)

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """What the judge's scores come to (`fna.judge.tally.relative`), ``word_f1`` and where there is a model ``bert_f1`` with the
        reference answers, in percent, and ``kv_megabytes`` that the cache holds of a prompt."""
        bert = {"bert_f1": 100.0 * sums["bert"] / sums["questions"]} if "bert" in sums else {}
        shares = {"word_f1": 100.0 * sums["f1"] / sums["questions"], "kv_megabytes": sums["kept"] / sums["questions"] / 1e6}
        return {**tally.relative(sums), **bert, **shares}

    def notes(self, outcome: Outcome, dataset: Dataset) -> list[str]:
        """Where nobody has judged."""
        if tally.judged(outcome.counts):
            return []
        why = "a dry run" if self.judge.dry_run else "no judge.base_url"
        return [f"nobody has judged the answers ({why}): word F1 says how near they are to the reference answers in words, no more"]

    def exhibits(self, show: Show) -> Sections:
        """``judge.json`` in the run's folder, and its lines on the page: scores by category and what they cost."""
        passes = [one for one in show.passes if tally.judged(one.outcome.counts)]
        found = []
        for one in passes:
            held = {name: values for name, values in one.outcome.counts.items() if name not in ("f1", "questions", "kept", "bert")}
            spent = tally.spent(held)
            cost = self.judge.calls.cost(spent["tokens_in"], spent["tokens_out"])
            found.append({"label": one.label, "rows": tally.table(held), **spent, "cost": cost})
        if not found:
            return {}
        show.table("judge.json", {"model": self.judge.model, "base_url": self.judge.base_url, "variants": found})
        return {"judge": [{"text": line} for one in found for line in _lines(one)]}

    def answers(self, model: Model, dataset: Dataset, run: Run, skipped: list[str]) -> dict[str, Any]:
        """Question -> the line of its answer: those that are kept, and the others written now."""
        kept = self._kept(model, run)
        held = sha256s(example.image for example in dataset.examples)
        names = {one.key: digest_of({"image": held[one.image], "question": one.question}) for one in dataset.examples}
        todo = [one for one in dataset.examples if names[one.key] not in kept.lines]
        run.progress(len(dataset.examples) - len(todo))
        todo.sort(key=lambda one: len(one.question))
        for start in range(0, len(todo), run.batch_size):
            batch = todo[start : start + run.batch_size]
            seen = [(one, picture) for one in batch if (picture := _opened(one, run.strict, skipped)) is not None]
            for (one, _), (text, size) in zip(seen, self._asked(model, seen), strict=True):
                kept.add({"id": names[one.key], "question_id": one.key, "prompt": one.question, "text": text, "kept": size})
            run.progress(len(batch))
        return {key: kept.lines[name] for key, name in names.items() if name in kept.lines}

    def judged(self, asked: Sequence[OpenQuestion], told: Sequence[str]) -> dict[str, Array]:
        """What the judge makes of the answers; nothing where there is none, or in a dry run."""
        if not self.judge.there:
            return {}
        pairs = zip(asked, told, strict=True)
        matters = [Matter(one.key, one.context, one.question, one.reference, answer) for one, answer in pairs]
        say(f"judge: {self.judge.plan(matters).sentence(self.judge.calls)}")
        if self.judge.dry_run:
            return {}
        verdicts = self.judge.judge(matters)
        failed = [reason for one in verdicts for reason in one.failed]
        if failed:
            warnings.warn(f"in no mean: {counted(len(failed), 'judgement')} without scores (first: {failed[0]})", stacklevel=1)
        return tally.counts([one.category for one in asked], verdicts)

    def _kept(self, model: Model, run: Run) -> Ledger:
        decides = {"model": model.identity, "change": run.change, "device": model.device.type, "tokens": self.tokens}
        return Ledger(Path(self.cache) / f"{digest_of({**decides, 'version': self.version})}.jsonl", "id")

    def _asked(self, model: Model, seen: Sequence[tuple[OpenQuestion, Image.Image]]) -> list[tuple[str, float]]:
        if not seen:
            return []
        inputs = model.answer.inputs([[picture] for _, picture in seen], [[(one.question, None)] for one, _ in seen])
        with torch.inference_mode():
            out, sizes = _written(model, inputs, self.tokens)
        return list(zip(model.answer.text(out[:, inputs["input_ids"].shape[1] :]), sizes, strict=True))


def _written(
    model: Model, inputs: Mapping[str, Tensor], most: int, least: int = 0, told: Told | None = None
) -> tuple[Tensor, list[float]]:
    """Ids ``[B, P + T]``: the prompts and what the model wrote behind them, greedily, under whatever is in force on it; and bytes
    of each row's cache (`prompt_bytes`). ``told``: called after each token."""
    net = model.answer.net
    model.answer.fresh()
    limits: dict[str, Any] = {"max_new_tokens": most, **({"min_new_tokens": least} if least else {})}
    limits |= {"streamer": Telling(told)} if told else {}
    with conversation(net, read_prompt(net, **inputs)) as cache:
        out: Tensor = net.generate(**inputs, past_key_values=cache, do_sample=False, num_beams=1, **limits)
        return out, prompt_bytes(cache, inputs["attention_mask"])


def _opened(one: OpenQuestion, strict: bool, skipped: list[str]) -> Image.Image | None:
    """The image, None (and a line in ``skipped``) where it cannot be read. Raises `UserError` instead where that is ``strict``."""
    try:
        return open_image(one.image)
    except UNREADABLE as error:
        if strict:
            raise UserError(f"{one.image}: unreadable image ({error}); mend or remove it, or run with strict=false.") from error
        skipped.append(f"{one.key}: unreadable image ({error})")
        return None


def _words(text: str) -> Array:
    """How often words of each hash occur, float32 ``[BINS]``, and 1 for the text itself, so that none is a zero vector."""
    found = np.zeros(BINS, np.float32)
    found[0] = 1.0
    for word in text.lower().split():
        found[int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % BINS] += 1.0
    return found


def _lines(one: Mapping[str, Any]) -> list[str]:
    """A variant's scores in sentences."""
    cost = "" if one["cost"] is None else f", {one['cost']:.2f} at the prices given"
    told = [
        f"{one['label']}, {row['category']}: {row['relative']:.1f} [{row['ci'][0]:.1f}, {row['ci'][1]:.1f}] relative to the "
        f"reference (answer {row['answer']:.1f}, reference {row['reference']:.1f} of 100; {counted(row['scored'], 'question')})"
        for row in one["rows"]
    ]
    return [
        *told,
        f"{one['label']}: {counted(one['judged'], 'judgement')} with scores, {one['failed']} without; "
        f"{counted(one['calls'], 'call')}, {one['tokens_in']:,} tokens in, {one['tokens_out']:,} out{cost}",
    ]
