"""Answers of a vision-language model, greedy, in batches, kept one by one: a run that is killed goes on where it was."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.data.base import Asked
from fna.data.files import UNREADABLE
from fna.data.loading import none_read
from fna.data.pictures import open_image
from fna.errors import UserError
from fna.judge.ledger import Ledger
from fna.models.llava import Talk
from fna.models.vlm_prompts import prompt
from fna.records import only_one
from fna.surgery.cache import prompt_bytes, read_prompt
from fna.surgery.conversation import conversation
from fna.tasks.base import Run, Told
from fna.tasks.telling import Telling

Turn = tuple[str, str]  # a question and its answer
ALONE: Turn = ("Is this a picture?", "yes")  # before the only question about an image


@dataclass(frozen=True)
class Answer:
    """What was ``said``, and how ``sure`` the model was of it: the geometric mean of its tokens' probabilities, 0 to 1.

    ``kept``: bytes of keys and values that the cache held of its prompt at the end.
    """

    key: str
    said: str
    sure: float
    kept: float


def answered(
    talk: Talk,
    examples: Sequence[Asked],
    suffix: str,
    longest: int,
    file: Path,
    run: Run,
    skipped: list[str],
    before: Mapping[str, Turn] | None = None,
) -> list[Answer]:
    """An answer to every question whose image can be read, in the order of ``examples``; the others are named in ``skipped``.

    Questions go in batches of like length. What ``file`` holds already is not asked again; each batch is added to it at once.
    """
    with only_one(file):
        ledger = Ledger(file, "key")
        kept = stored(ledger)
        told = {example.key: kept[example.key] for example in examples if example.key in kept}
        run.progress(len(told))
        pending = [example for example in examples if example.key not in told]
        lengths = {one.key: len(talk.processor.tokenizer(one.question + suffix).input_ids) for one in pending}
        pending.sort(key=lambda one: (lengths[one.key], one.key))
        for start in range(0, len(pending), run.batch_size):
            part = pending[start : start + run.batch_size]
            seen = list(_seen(part, run.strict, skipped))
            if seen:
                found = answer(talk, [one for one, _ in seen], [picture for _, picture in seen], suffix, longest, before or {})
                for one in found:
                    ledger.add(asdict(one))
                told |= {one.key: one for one in found}
            run.progress(len(part))
    if not told:
        raise none_read(examples)
    return [told[example.key] for example in examples if example.key in told]


@torch.inference_mode()
def answer(
    talk: Talk, examples: Sequence[Asked], pictures: Sequence[Any], suffix: str, longest: int, before: Mapping[str, Turn]
) -> list[Answer]:
    """One batch. ``before``: by key the question and answer of a turn that comes first; nothing: each question opens its talk."""
    first = [replace(one, question=before[one.key][0]) for one in examples] if before else examples
    inputs = asked(talk, first, pictures, suffix)
    then = second_turn(talk, examples, before, suffix) if before else None
    ids, logits, kept = generated(talk, inputs, longest, then=then)
    sure = certainty(ids, logits, ends(talk))
    said = talk.text(ids)
    return [Answer(one.key, *told) for one, told in zip(examples, zip(said, sure, kept, strict=True), strict=True)]


def asked(talk: Talk, examples: Sequence[Asked], pictures: Sequence[Any], suffix: str) -> dict[str, Tensor]:
    """What the network takes."""
    return talk.inputs([[picture] for picture in pictures], [[(one.question + suffix, None)] for one in examples])


def second_turn(talk: Talk, examples: Sequence[Asked], before: Mapping[str, Turn], suffix: str) -> dict[str, Tensor]:
    """What comes behind the prompts of the first turns: their answers and the ``examples``' questions, padded on the left."""
    texts = []
    for one in examples:
        question, told = before[one.key]
        whole = prompt(talk.style, talk.processor, [(question + suffix, told), (one.question + suffix, None)])
        head = prompt(talk.style, talk.processor, [(question + suffix, None)])
        if not whole.startswith(head):
            raise UserError("task.turn=2: this model's chat template does not go on where the first turn ended; leave it out.")
        texts.append(whole[len(head) :])
    made = talk.processor.tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    return {name: made[name].to(talk.net.device) for name in ("input_ids", "attention_mask")}


def generated(
    talk: Talk,
    inputs: dict[str, Tensor],
    longest: int,
    shortest: int = 0,
    then: dict[str, Tensor] | None = None,
    told: Told | None = None,
) -> tuple[Tensor, Tensor, list[float]]:
    """Greedy ids ``[B, T]``, the logits that they were chosen by ``[B, T, V]``, under whatever policy is in force, and bytes of
    each row's cache (`prompt_bytes`). ``then``: what is said behind the prompts once they are read (`second_turn`). ``told``:
    called after each token of the answer."""
    talk.fresh()
    most = getattr(talk.net.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if most is not None and inputs["input_ids"].shape[1] + longest > most:
        warnings.warn(
            f"some prompts and answers are longer than the {most} positions that {type(talk.net).__name__} was made for: what it "
            "says beyond them means little.",
            stacklevel=1,
        )
    how: dict[str, Any] = {"max_new_tokens": longest, "do_sample": False, "num_beams": 1}
    how |= {"min_new_tokens": shortest} if shortest else {}
    how |= {"streamer": Telling(told)} if told else {}
    with conversation(talk.net, read_prompt(talk.net, **inputs)) as cache:
        valid = inputs["attention_mask"]
        if then is not None:
            # By `generate`, which numbers positions without the padding; the one token that it writes is not in the cache.
            talk.net.generate(**inputs, past_key_values=cache, max_new_tokens=1, do_sample=False, pad_token_id=_pad(talk))
            inputs = {name: torch.cat([inputs[name], then[name]], 1) for name in then}
        out = talk.net.generate(
            **inputs, **how, past_key_values=cache, output_logits=True, return_dict_in_generate=True, pad_token_id=_pad(talk)
        )
        kept = prompt_bytes(cache, valid)
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1), kept


def turns_before(examples: Sequence[Asked]) -> dict[str, Turn]:
    """Of each question the one about the same image that stands before it, the last one before the first, with its answer."""
    by_image: dict[Path, list[Asked]] = {}
    for one in examples:
        by_image.setdefault(one.image, []).append(one)
    found = {}
    for asked_of in by_image.values():
        for place, one in enumerate(asked_of):
            other = asked_of[place - 1]
            found[one.key] = ALONE if other is one else (other.question, Counter(other.answers).most_common(1)[0][0])
    return found


def certainty(ids: Tensor, logits: Tensor, ends: Sequence[int]) -> list[float]:
    """`Answer.sure` of each row, up to its end's token and with it."""
    chosen = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    end = torch.isin(ids, torch.tensor(ends, dtype=ids.dtype, device=ids.device)).long()
    counts = end.cumsum(1) - end == 0
    means = chosen.masked_fill(~counts, 0.0).sum(1) / counts.sum(1)
    return [math.exp(value) for value in means.tolist()]


def ends(talk: Talk) -> list[int]:
    """Tokens that end an answer."""
    found = talk.net.generation_config.eos_token_id
    return [] if found is None else list(found) if isinstance(found, list) else [int(found)]


def _pad(talk: Talk) -> int:
    pad = talk.processor.tokenizer.pad_token_id
    return int(pad) if pad is not None else (ends(talk) or [0])[0]


def _seen(part: Sequence[Asked], strict: bool, skipped: list[str]) -> Iterator[tuple[Asked, Any]]:
    for one in part:
        try:
            yield one, open_image(one.image)
        except UNREADABLE as error:
            reason = str(error).replace(str(one.image), one.image.name)
            if strict:
                raise UserError(
                    f"{one.image}: unreadable image ({reason}); mend or remove it, or run with strict=false to skip it."
                ) from error
            skipped.append(f"{one.key}: unreadable image ({reason})")


def stored(ledger: Ledger) -> dict[str, Answer]:
    """What was answered before, by key; a line that is none of ours is asked again."""
    found: dict[str, Answer] = {}
    for line in ledger.lines.values():
        try:
            key, said = str(line["key"]), str(line["said"])
            found[key] = Answer(key, said, float(line["sure"]), float(line["kept"]))
        except (KeyError, ValueError, TypeError):
            continue
    return found
