"""KV policies on the embedded LLaVA: right answers in pairs with the whole cache, bytes of the cache, times in turns.

    python scripts/compare_kv.py                             # every policy at 1/2, 1/4, 1/8 of the image tokens
    python scripts/compare_kv.py --scenes 50 --budgets 0.25 --policies kv=random "kv=fna kv.ladder=none"
    python scripts/compare_kv.py --split val --turns 0 --policies "kv=fna kv.prefill=landmark kv.damping=0.1"

Answers are kept beside ``--out`` as they come: killed, the same command goes on.
Policies that act behind the prompt see the same reading of it, since it attends in the same way under all of them; those that
drop tokens before or inside the decoder read it themselves. Times are of one question, each policy reading it itself.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("compare_kv", then="the same command goes on")

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_kv import Watching, policy
from PIL import Image
from torch import Tensor

from fna.configs import choices, load_option
from fna.data.scene_drawing import draw
from fna.data.scene_files import scenes_of
from fna.data.scene_questions import KINDS, Question, ask
from fna.judge.ledger import Ledger
from fna.kv.contract import Pruning
from fna.models.llava import Talk, VisionLanguageModel
from fna.surgery.cache import kept, read_prompt

SIZE, BATCH, LONGEST = 144, 24, 6
DRAWS = 2000  # behind every interval
OPTIONS = ("ladder=none", "ladder=fitted_bias", "ladder=fitted_values", "prefill=landmark", "prefill=bidirectional")  # of kv=fna


class Answers:
    """What each policy answered: ``right`` by its words, a bool for each question so far, and the bytes of its caches."""

    def __init__(self, names: Sequence[str]) -> None:
        self.right: dict[str, list[bool]] = {name: [] for name in names}
        self.bytes: dict[str, float] = dict.fromkeys(names, 0.0)

    def add(self, name: str, told: Sequence[str], questions: Sequence[Question], size: float) -> None:
        self.right[name] += [answer == question.answer for answer, question in zip(told, questions, strict=True)]
        self.bytes[name] += size


@torch.inference_mode()
def tell(
    talk: Talk, made: dict[str, Any], pictures: Sequence[Image.Image], questions: Sequence[Question], ledger: Ledger
) -> Answers:
    """Greedy answers to all questions under each policy; a batch under a policy that ``ledger`` has is not asked again."""
    found = Answers(list(made))
    for start in range(0, len(questions), BATCH):
        part = slice(start, start + BATCH)
        ids = {name: f"{start} of {len(questions)} {name}" for name in made}
        missing = {name: own for name, own in made.items() if ids[name] not in ledger.lines}
        for name in made.keys() - missing.keys():
            found.add(name, ledger.lines[ids[name]]["told"], questions[part], ledger.lines[ids[name]]["bytes"])
        if not missing:
            continue
        talks = [[(question.text, None)] for question in questions[part]]
        inputs = talk.inputs([[picture] for picture in pictures[part]], talks)
        prompt, watch = read_prompt(talk.net, **inputs), Watching()
        with kept(talk.net, watch, prompt=prompt) as cache:
            last = talk.net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        for name, own in missing.items():
            with kept(talk.net, own or Watching(), prompt=prompt) as cache:
                if isinstance(own, Pruning) or getattr(own, "prefill", "exact") != "exact" or (own and not hasattr(own, "keep")):
                    first = talk.net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                else:
                    first = last
                    for layer, state in zip(cache.kept, watch.states.values(), strict=True):  # type: ignore[attr-defined]
                        layer.seen, layer.complete = inputs["input_ids"].shape[1], True
                        layer.put(own.keep(replace(state, memo=layer.memo)) if own else state.entries)
                size = held(cache)
                told = talk.text(after(talk, cache, first, inputs["attention_mask"].sum(1, keepdim=True)))
            ledger.add({"id": ids[name], "told": told, "bytes": size})
            found.add(name, told, questions[part], size)
        print(f"{len(found.right['kv=none'])} of {len(questions)} questions", flush=True)
    return found


def after(talk: Talk, cache: Any, logits: Tensor, place: Tensor) -> Tensor:
    """Greedy ids ``[B, T]`` behind a prompt whose last ``logits`` ``[B, 1, V]`` are given; ``place`` ``[B, 1]``: its length."""
    end = talk.processor.tokenizer.eos_token_id
    words: list[Tensor] = []
    done = torch.zeros_like(place, dtype=torch.bool)
    while len(words) < LONGEST and not bool(done.all()):
        word = logits[:, -1].argmax(-1, keepdim=True).masked_fill(done, end)
        done = done | (word == end)
        logits = talk.net(word, past_key_values=cache, position_ids=place, use_cache=True).logits
        place = place + 1
        words.append(word)
    return torch.cat(words, 1)


def held(cache: Any) -> float:
    """Bytes of what a cache holds of the prompt, without spare room."""
    return float(sum(part.view.nbytes for layer in cache.kept for part in layer.parts.values()))


@torch.inference_mode()
def clock(talk: Talk, own: Any, inputs: dict[str, Tensor], tokens: int) -> float:
    """Seconds from pixels to the last of so many tokens."""
    began = time.perf_counter()
    with kept(talk.net, own, prompt=read_prompt(talk.net, **inputs)) as cache:
        talk.net.generate(**inputs, past_key_values=cache, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return time.perf_counter() - began


def in_turns(
    talk: Talk, made: dict[str, Any], picture: Image.Image, question: Question, turns: int
) -> dict[str, tuple[float, float]]:
    """Medians over turns of the seconds to the first token and for each further one; NaN where there are no turns."""
    if not turns:
        return dict.fromkeys(made, (float("nan"), float("nan")))
    inputs = talk.inputs([[picture]], [[(question.text, None)]])
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for turn in range(turns + 1):
        for name, own in made.items():
            first = clock(talk, own, inputs, 1)
            if turn:  # the first warms up
                spent[name].append((first, (clock(talk, own, inputs, LONGEST) - first) / (LONGEST - 1)))
    medians = {name: np.median(np.array(pairs), axis=0) for name, pairs in spent.items()}
    return {name: (float(first), float(later)) for name, (first, later) in medians.items()}


def apart(full: np.ndarray, ours: np.ndarray, kinds: np.ndarray) -> tuple[float, float, float]:
    """Points by which the mean over kinds differs, and its 95 % bootstrap interval over questions, paired."""
    random = np.random.default_rng(0)
    change = ours.astype(float) - full.astype(float)
    places = [np.flatnonzero(kinds == kind) for kind in KINDS]
    drawn = np.mean([change[random.choice(place, (DRAWS, len(place)))].mean(1) for place in places], axis=0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return 100 * float(np.mean([change[place].mean() for place in places])), 100 * float(low), 100 * float(high)


def every(budgets: Sequence[float]) -> list[str]:
    """Words for each choice of conf/kv at each budget; FNA with its other steps and prefills too; A-VL at its own rates."""
    found: list[str] = []
    for name in sorted(set(choices("kv")) - {"none"}):
        if "budget" not in load_option("kv", name):
            found.append(f"kv={name}")
            continue
        for budget in budgets:
            found.append(f"kv={name} kv.budget={budget}")
            found += [f"kv={name} kv.budget={budget} kv.{option}" for option in OPTIONS if name == "fna"]
    return found


def main() -> None:
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("--scenes", type=int, default=400)
    asks.add_argument("--split", choices=("val", "test"), default="test", help="of the scenes; options are picked on val")
    asks.add_argument("--policies", nargs="*", help='words such as "kv=fna kv.budget=0.25"; all by default')
    asks.add_argument("--budgets", nargs="*", type=float, default=[0.5, 0.25, 0.125])
    asks.add_argument("--out", type=Path, default=Path("outputs/compare_kv.csv"))
    asks.add_argument("--turns", type=int, default=15, help="in which the times are taken; 0: none are")
    asks.add_argument("--checkpoint", default="zoo:llava_shapes")
    args = asks.parse_args()
    source = VisionLanguageModel(args.checkpoint, prompt="short", domain="generated")
    talk: Talk = source.build(image_size=None, device="cpu", dtype="float32", seed=0).answer
    scenes = scenes_of(args.split, args.scenes)
    drawn = [Image.fromarray(draw(scene, SIZE)[0]) for scene in scenes]
    asked = [(picture, question) for picture, picked in zip(drawn, ask(scenes), strict=True) for question in picked]
    pictures, questions = [picture for picture, _ in asked], [question for _, question in asked]
    kinds = np.array([question.kind for question in questions])
    made = {words: policy(words) for words in ("kv=none", *(args.policies or every(args.budgets)))}
    found = tell(talk, made, pictures, questions, Ledger(args.out.with_suffix(".jsonl"), "id"))
    times = in_turns(talk, made, pictures[0], questions[0], args.turns)
    full = np.array(found.right["kv=none"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["kv", "macro", "points", "low", "high", *KINDS, "bytes", "first_token_ms", "token_ms"])
        for name, right in found.right.items():
            ours = np.array(right)
            shares = [100 * ours[kinds == kind].mean() for kind in KINDS]
            told = [np.mean(shares), *apart(full, ours, kinds), *shares]
            first, later = times[name]
            size = found.bytes[name] / len(questions)
            row = [name, *(f"{x:.1f}" for x in told), f"{size:.0f}", f"{1000 * first:.1f}", f"{1000 * later:.2f}"]
            table.writerow(row)
            print("  ".join(row))
    print(f"{len(questions)} questions; written: {args.out}")
