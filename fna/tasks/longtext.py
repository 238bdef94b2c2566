"""Long text: how well a language model goes on with one, and whether it finds a needle in it, by what is left of its cache.

The prompt is the text's first ``tokens`` tokens with the needle's sentence in the place of as many of them; then come the text's
next ``held_out`` tokens, ``stride`` at a time, and a question for the needle as a second turn. So a policy compresses before it
knows what will be asked. Perplexity is that of the held-out tokens; a needle is found if the answer, written greedily, holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fna.data.base import Dataset
from fna.data.longtext import Written
from fna.errors import UserError
from fna.models.base import Decoder, Model
from fna.surgery.cache import prompt_bytes
from fna.surgery.conversation import conversation
from fna.tasks.base import Array, Outcome, Run, Told
from fna.values import Count, between

WRITTEN = 8  # tokens in which the answer has to come
TIMED = 16  # steps behind the prompt in what is timed


@dataclass(frozen=True)
class Read:
    """A text as a model reads it: ids ``[1, tokens]``, ``[1, held_out]``, ``[1, Q]``."""

    prompt: Tensor
    rest: Tensor
    question: Tensor


@dataclass
class LongReading:
    """``tokens``: of each prompt; ``held_out``: tokens after it whose perplexity is measured, ``stride`` of them a forward.

    A policy that acts while answering acts after each forward: 1 is what generation does, more is faster.
    """

    tokens: Annotated[int, between(100, 100_000)] = 4000
    held_out: Count = 64
    stride: Count = 1
    version: int = 2
    asks: ClassVar[type] = Written
    needs: ClassVar[frozenset[str]] = frozenset({"decoder"})

    def check(self, model: Model, dataset: Dataset) -> None:
        """Raise `UserError` for a model that does not write, or for data that is no text."""
        if model.decoder is None:
            raise UserError(f"{model.name} writes no text: task=longtext needs a language model, such as model=smollm2.")
        if not dataset.examples or not all(isinstance(example, Written) for example in dataset.examples):
            raise UserError(f"{dataset.name} holds no long texts: task=longtext reads dataset=longtext.")
        most = getattr(model.decoder.net.config, "max_position_embeddings", None)
        if most is not None and self.tokens + self.held_out + 64 > most:
            raise UserError(f"task.tokens={self.tokens}: {model.name} has {most} positions; give fewer.")

    def forward(self, model: Model) -> Callable[[Tensor], Tensor]:
        """A prompt ``[B, N]`` and a few steps behind it: what is timed."""
        return lambda ids: self.write(model, ids, lambda: None)

    def write(self, model: Model, given: Tensor, told: Told) -> Tensor:
        """`forward`, telling of each token."""
        assert model.decoder is not None
        net, ids = model.decoder.net, given
        with conversation(net) as cache:
            for _ in range(1 + TIMED):
                logits = net(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                ids = logits.argmax(-1)
                told()
        return logits[:, 0]

    def first(self, model: Model, dataset: Dataset, count: int) -> Tensor:
        """The prompt that is timed, ``[1, tokens]``: one, whatever ``count`` says, for it is long."""
        assert model.decoder is not None
        return self.read(model.decoder, dataset.examples[0]).prompt.to(model.device)

    def evaluate(self, model: Model, dataset: Dataset, run: Run) -> Outcome:
        """One pass over the texts, one by one."""
        self.check(model, dataset)
        decoder = model.decoder
        assert decoder is not None
        scores, firsts, answers, kept = [], [], [], []
        with torch.inference_mode():
            for example in dataset.examples:
                read = self.read(decoder, example)
                with conversation(decoder.net) as cache:
                    last = decoder.net(read.prompt.to(model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
                    score, first, answer = after(decoder, cache, last.logits, read, self.stride)
                scores.append(score)
                firsts.append(first)
                answers.append(answer)
                kept += prompt_bytes(cache, torch.ones_like(read.prompt))
                run.progress(1)
        outputs = np.stack(scores)
        found = [example.answer in answer for example, answer in zip(dataset.examples, answers, strict=True)]
        n = len(outputs)
        counts = {"tokens": np.full(n, self.held_out), "nll": -outputs.astype(np.float64).sum(1)}
        counts |= {"needles": np.ones(n), "found": np.array(found, np.float64), "kept": np.array(kept)}
        keys, truths = [example.key for example in dataset.examples], [example.answer for example in dataset.examples]
        return Outcome(keys, counts, outputs, np.stack(firsts), answers, truths)

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        """``perplexity`` of the held-out tokens; ``needle``: percent found; ``kv_megabytes`` that the cache holds of a prompt."""
        needle, size = 100.0 * sums["found"] / sums["needles"], sums["kept"] / sums["needles"] / 1e6
        return {"perplexity": np.exp(sums["nll"] / sums["tokens"]), "needle": needle, "kv_megabytes": size}

    def read(self, decoder: Decoder, example: Any) -> Read:
        """Raises `UserError` for a text that is too short."""
        ids, needle, question = (
            decoder.tokenizer(text, add_special_tokens=False).input_ids for text in (example.text, example.needle, example.question)
        )
        room = self.tokens - len(needle)
        if len(ids) < room + self.held_out or room < 1:
            raise UserError(
                f"{example.key}: {len(ids)} tokens are too few for task.tokens={self.tokens} and task.held_out={self.held_out}; "
                "give fewer, or more dataset.characters."
            )
        place = int(example.depth * room)
        prompt = ids[:place] + needle + ids[place:room]
        return Read(torch.tensor([prompt]), torch.tensor([ids[room : room + self.held_out]]), torch.tensor([question]))


def after(decoder: Decoder, cache: Any, logits: Tensor, read: Read, stride: int) -> tuple[Array, Array, str]:
    """What comes after a prompt whose last ``logits`` ``[1, 1, V]`` are given.

    Log-probabilities of the held-out tokens float32 ``[n]``, the likeliest token at each int64 ``[n]``, and the answer.
    """
    net, told = decoder.net, {"past_key_values": cache, "use_cache": True}
    rest, parts = read.rest.to(logits.device), [logits[0, -1:]]
    for words in rest.split(stride, 1):
        parts.append(net(words, **told).logits[0])
    shares = torch.cat(parts)[:-1].float().log_softmax(-1)
    scores = shares.gather(1, rest[0, :, None])[:, 0]
    logits = net(read.question.to(logits.device), **told, logits_to_keep=1).logits
    written: list[int] = []
    while len(written) < WRITTEN:
        word = logits[:, -1].argmax(-1, keepdim=True)
        written.append(int(word))
        if len(written) < WRITTEN:
            logits = net(word, **told).logits
    return scores.cpu().numpy(), shares.argmax(-1).cpu().numpy(), str(decoder.tokenizer.decode(written)).strip()
