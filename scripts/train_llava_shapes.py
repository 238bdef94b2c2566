"""Train llava_shapes, the small LLaVA that ships with fna, on questions about scenes drawn as it goes. `make zoo` runs this.

    python scripts/train_llava_shapes.py                     # resumes from outputs/zoo where it was stopped
    python scripts/train_llava_shapes.py --check             # the first losses, in float32, against the recorded ones
    python scripts/train_llava_shapes.py --export            # weights and losses into fna/models/zoo/llava_shapes

The tower of clip_shapes is frozen; a projector and a Llama learn to answer, small images first. A scene is read once and its
conversations share that reading. Everything is decided by the step's number and SEED.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("train_llava_shapes", then="the same command goes on from its last checkpoint")

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from llava_shapes_batches import GROUPS, TURNS, Batch, Stage, Words, batch
from llava_shapes_model import LAYERS, processor, tokenizer, tower, untrained
from recipe import CHECKED, TUNED, check, rate_at, save, tuned, write_losses
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModel, LlavaForConditionalGeneration
from transformers.cache_utils import DynamicCache

from fna.data.scene_questions import KINDS

ROOT = Path(__file__).parents[1]
HOME = ROOT / "fna/models/zoo/llava_shapes"
SEED = 0
STAGES = (
    Stage(size=96, scenes=4, talks=8, rate=1e-3, steps=400, pointing=0.5, answering=0.5),
    Stage(size=96, scenes=4, talks=8, rate=5e-4, steps=1600),
    Stage(size=144, scenes=4, talks=8, rate=5e-4, steps=800),
)
WARM_UP = 40  # steps at the start of a stage in which the rate rises
DECAY = 0.6  # share of the last stage in which it falls to 0
LIKENESS = 0.2  # weight of the loss that makes a patch like the words for it
NOUN, ANSWER = 2, 4  # blocks in which a noun, and the token before an answer, are made to look at what is named
LOOKING = slice(0, 2)  # which of the heads
SAVE_EVERY = 25
PARTS = ("answers", "likeness", "nouns", "answerers")  # of the loss


def build() -> tuple[LlavaForConditionalGeneration, Words, torch.optim.Optimizer]:
    """The untrained model, its words, and the optimiser of projector and Llama."""
    torch.manual_seed(SEED)
    reads = tokenizer()
    model = untrained(reads).train()
    model.set_attn_implementation("eager")  # torch's fused attention is slower backwards on a CPU: 0.70 s against 0.46 s a step
    learnt = [p for p in model.parameters() if p.requires_grad]
    chosen = [
        {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]
    return model, Words(reads), torch.optim.AdamW(chosen, lr=0.0, betas=(0.9, 0.98))


def losses(
    model: LlavaForConditionalGeneration, eyes: CLIPVisionModel, words: Words, given: Batch
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The losses, and of each kind the share of answers that were right in every word, the right words before given.

    "answers"; "likeness" of patches to the words for them; "nouns" and "answerers" that look past what is named.
    """
    llama = model.model.language_model
    embed = llama.embed_tokens
    with torch.no_grad():
        seen = eyes(given.pixels, output_hidden_states=True).hidden_states
    patches = model.model.multi_modal_projector(torch.cat([seen[layer][:, 1:] for layer in LAYERS], -1))
    scenes = len(patches)
    start = embed(torch.tensor(words("<s> USER:")).expand(scenes, -1))
    cache = DynamicCache(config=llama.config)
    llama(inputs_embeds=torch.cat([start.to(patches.dtype), patches], 1), past_key_values=cache, use_cache=True)
    length = cache.get_seq_length()
    cache.batch_repeat_interleave(len(given.ids) // scenes)
    whole = torch.cat([given.mask.new_ones(len(given.ids), length), given.mask], 1)
    places = length + torch.arange(given.ids.shape[1]).expand_as(given.ids)
    told = llama(
        input_ids=given.ids,
        attention_mask=whole,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        output_attentions=True,
    )
    wanted = given.answers[:, 1:]
    asked = wanted >= 0
    logits = model.lm_head(told.last_hidden_state[:, :-1][asked]).float()
    loss = F.cross_entropy(logits, wanted[asked])
    alike = []
    for group, names in enumerate(GROUPS):
        of = given.likes[..., group]
        known = of >= 0
        alike.append(F.cross_entropy((patches[known] @ embed.weight[words(" ".join(names))].T).float(), of[known]))
    owner = given.owners.repeat_interleave(len(given.ids) // scenes, 0)[:, None]
    things = torch.where(owner > 0, 1 << (owner - 1).clamp_min(0), 0)

    def past(block: int, named: Tensor) -> Tensor:
        aims = (named[..., None] & things) > 0
        looks = told.attentions[block][:, LOOKING, :, length - patches.shape[1] : length].float()
        hit = (looks * aims[:, None]).sum(-1).movedim(1, -1)[aims.any(-1)]
        return -hit.clamp_min(1e-6).log().mean()

    parts = {
        "answers": loss,
        "likeness": torch.stack(alike).mean(),
        "nouns": past(NOUN, given.named),
        "answerers": past(ANSWER, given.asked),
    }
    wrong = torch.zeros(len(given.ids), TURNS)
    wrong.view(-1).index_add_(
        0, (torch.arange(len(asked))[:, None] * TURNS + given.turns[:, 1:])[asked], (logits.argmax(-1) != wanted[asked]).float()
    )
    right = (wrong == 0).float()
    shares = {kind: right[given.kinds == i].mean().item() for i, kind in enumerate(KINDS)}
    return parts, shares


def weigh(parts: Mapping[str, Tensor], stage: Stage) -> Tensor:
    """The sum of the losses, as heavy as the stage has them."""
    weights = {"answers": 1.0, "likeness": LIKENESS, "nouns": stage.pointing, "answerers": stage.answering}
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


def train(folder: Path, steps: int, threads: int, dtype: torch.dtype = torch.bfloat16) -> list[dict[str, float]]:
    """Train up to `steps`, from the checkpoint in `folder` where there is one, products in `dtype`: the losses of all steps."""
    torch.set_num_threads(threads)
    model, words, optimiser = build()
    folder.mkdir(parents=True, exist_ok=True)
    path, log, first = folder / "llava_last.pt", [], 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        log, first = state["log"], state["step"]
        print(f"resuming at step {first} from {path}", flush=True)
    eyes = {stage.size: tower(stage.size) for stage in STAGES}
    learnt = [p for group in optimiser.param_groups for p in group["params"]]
    total = min(steps, sum(stage.steps for stage in STAGES))
    began, earlier = time.time(), log[-1]["seconds"] if log else 0.0
    for step in range(first, total):
        rate, number = rate_at(step, STAGES, WARM_UP, DECAY)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            parts, shares = losses(model, eyes[STAGES[number].size], words, batch(STAGES, step, words))
        optimiser.zero_grad()
        weigh(parts, STAGES[number]).backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        spent = time.time() - began
        record = {"step": step, "rate": rate, **{name: part.item() for name, part in parts.items()}, **shares}
        log.append({**record, "seconds": round(earlier + spent, 1)})
        done = step + 1
        if done % 25 == 0:
            shown = " ".join(f"{kind} {_mean([row[kind] for row in log[-100:]]):.3f}" for kind in KINDS)
            left = spent / (done - first) * (total - done) / 60
            losing = " ".join(f"{name} {_mean([row[name] for row in log[-25:]]):.3f}" for name in parts)
            print(
                f"{done}/{total} {losing} | {shown} | {left:.0f} min left",
                flush=True,
            )
        if done % SAVE_EVERY == 0 or done == total or rate_at(done, STAGES, WARM_UP, DECAY)[1] != number:
            save(path, {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": done, "log": log})
    return log


def _mean(values: list[float]) -> float:
    """The mean of those that are numbers: a batch may hold no question of a kind."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / max(len(known), 1)


def export(folder: Path) -> None:
    """What from_pretrained reads (weights in fp16), its digest, and the losses, from the last checkpoint in `folder`."""
    state = torch.load(folder / "llava_last.pt", weights_only=True)
    model, words, _ = build()
    model.load_state_dict(state["model"])
    with tempfile.TemporaryDirectory(dir=HOME.parent) as parts:  # each file whole or not at all
        model.half().save_pretrained(parts)
        processor(words.reads).save_pretrained(parts)
        for part in Path(parts).iterdir():
            part.replace(HOME / part.name)
    (HOME / "model.safetensors").chmod(0o644)  # transformers writes it for its owner alone
    digest = hashlib.sha256((HOME / "model.safetensors").read_bytes()).hexdigest()
    (HOME / "model.sha256").write_text(f"{digest}  model.safetensors\n")
    write_losses(HOME / "losses.csv", ("step", "rate", *PARTS, *KINDS, "seconds"), state["log"])
    print(f"step {state['step']}: {digest}")


def first_losses(steps: int) -> list[dict[str, float]]:
    """The losses of at most CHECKED first steps in float32, from the start, leaving nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), min(steps, CHECKED), 1, torch.float32)


def main() -> int:
    tuned(TUNED)
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("--out", type=Path, default=ROOT / "outputs/zoo", help="checkpoints go here")
    asks.add_argument("--steps", type=int, default=sum(stage.steps for stage in STAGES), help="stop after so many")
    asks.add_argument("--check", action="store_true", help="compare the first losses with the recorded ones")
    asks.add_argument("--export", action="store_true", help="only write the weights of the last checkpoint")
    asks.add_argument("--threads", type=int, default=1, help="of torch; the recorded losses were made with one")
    args = asks.parse_args()
    if args.check:
        return check(first_losses(args.steps), HOME / "losses_float32.csv", "answers")
    if not args.export:
        train(args.out, args.steps, args.threads)
        if args.steps < sum(stage.steps for stage in STAGES):
            return 0
    export(args.out)
    return 0
