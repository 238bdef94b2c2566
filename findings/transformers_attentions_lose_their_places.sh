#!/usr/bin/env bash
# transformers 5.23.0: `output_attentions=True` leaves out the blocks that have no weights to give, and the others move up.
#
# Expected: `attentions[i]` belongs to block i: an attention registered by AttentionInterface that returns no weights (any linear or fused one)
# leaves a None in its place.
# Seen: a ViT of four blocks whose first two return (output, None), a documented return value: `attentions` has two entries, and
# attentions[0] is block 2's. No warning. Under `sdpa` the tuple is empty, with a warning in the log. Code that numbers blocks by enumerate
# (attention rollout, plots per layer, sink detection) shows the last blocks under the names of the first ones.
# What to do: compare len(attentions) with the number of blocks; to have some blocks, put forward hooks on their attention modules.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 transformers==5.23.0 numpy==2.4.6
cd "$room"
HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, ViTConfig, ViTModel

torch.manual_seed(0)
torch.set_num_threads(1)
WITH_WEIGHTS: list[torch.nn.Module] = []


def last_half(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Weights for some blocks; the others run fused and have none."""
    if module not in WITH_WEIGHTS:
        return scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2), None
    weights = (query @ key.mT * scaling).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


AttentionInterface.register("last_half", last_half)
sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
model = ViTModel(ViTConfig(**sizes, attn_implementation="eager")).eval()
WITH_WEIGHTS += [layer.attention for layer in model.layers[2:]]
images = torch.randn(1, 3, 32, 32)


@torch.inference_mode()
def attentions(name: str) -> tuple:
    model.set_attn_implementation(name)
    return model(images, output_attentions=True).attentions


full, some, none = attentions("eager"), attentions("last_half"), attentions("sdpa")
blocks = [[number for number, weights in enumerate(full) if torch.allclose(weights, each, atol=1e-5)] for each in some]
print(f"eager: {len(full)} entries; weights from two blocks of four: entries of blocks {blocks}; sdpa: {len(none)} entries")
assert len(full) == 4
assert blocks == [[2], [3]], "changed: entries stay in their places"
assert none == (), "changed: sdpa gives entries"
PYTHON
