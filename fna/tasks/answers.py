"""Answers of a vision-language model, greedy, in batches, kept one by one: a run that is killed goes on where it was."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.data.base import Asked
from fna.data.files import UNREADABLE
from fna.data.pictures import open_image
from fna.errors import UserError
from fna.judge.ledger import Ledger
from fna.models.llava import Talk
from fna.records import only_one
from fna.surgery.cache import read_prompt
from fna.surgery.conversation import conversation
from fna.tasks.base import Run


@dataclass(frozen=True)
class Answer:
    """What was ``said``, and how ``sure`` the model was of it: the geometric mean of its tokens' probabilities, 0 to 1."""

    key: str
    said: str
    sure: float


def answered(
    talk: Talk, examples: Sequence[Asked], suffix: str, longest: int, file: Path, run: Run, skipped: list[str]
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
                found = answer(talk, [one for one, _ in seen], [picture for _, picture in seen], suffix, longest)
                for one in found:
                    ledger.add(asdict(one))
                told |= {one.key: one for one in found}
            run.progress(len(part))
    if not told:
        raise UserError(f"none of the {len(examples)} images could be read (first: {skipped[0] if skipped else 'there is none'}).")
    return [told[example.key] for example in examples if example.key in told]


@torch.inference_mode()
def answer(talk: Talk, examples: Sequence[Asked], pictures: Sequence[Any], suffix: str, longest: int) -> list[Answer]:
    """One batch."""
    inputs = asked(talk, examples, pictures, suffix)
    ids, logits = generated(talk, inputs, longest)
    sure = certainty(ids, logits, ends(talk))
    said = talk.text(ids)
    return [Answer(one.key, text, value) for one, text, value in zip(examples, said, sure, strict=True)]


def asked(talk: Talk, examples: Sequence[Asked], pictures: Sequence[Any], suffix: str) -> dict[str, Tensor]:
    """What the network takes."""
    return talk.inputs([[picture] for picture in pictures], [[(one.question + suffix, None)] for one in examples])


def generated(talk: Talk, inputs: dict[str, Tensor], longest: int, shortest: int = 0) -> tuple[Tensor, Tensor]:
    """Greedy ids ``[B, T]`` and the logits that they were chosen by ``[B, T, V]``, under whatever policy is in force."""
    talk.fresh()
    most = getattr(talk.net.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if most is not None and inputs["input_ids"].shape[1] + longest > most:
        warnings.warn(
            f"some prompts and answers are longer than the {most} positions that {type(talk.net).__name__} was made for: what it "
            "says beyond them means little.",
            stacklevel=1,
        )
    told: dict[str, Any] = {"max_new_tokens": longest, "do_sample": False, "num_beams": 1}
    told |= {"min_new_tokens": shortest} if shortest else {}
    with conversation(talk.net, read_prompt(talk.net, **inputs)) as cache:
        out = talk.net.generate(
            **inputs, **told, past_key_values=cache, output_logits=True, return_dict_in_generate=True, pad_token_id=_pad(talk)
        )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1)


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
            found[str(line["key"])] = Answer(str(line["key"]), str(line["said"]), float(line["sure"]))
        except (KeyError, ValueError, TypeError):
            continue
    return found
