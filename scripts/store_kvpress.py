"""Scores of kvpress 0.5.5 for SnapKV and H2O on a small random Llama, stored once for tests/kv/test_kvpress.py.

    python -m venv /tmp/kvpress && /tmp/kvpress/bin/pip install kvpress==0.5.5
    PYTHONPATH=. /tmp/kvpress/bin/python scripts/store_kvpress.py

In an environment of its own: kvpress asks for transformers below 5.3 and wraps every attention function at import. Its "observed
attention" is H2O's sum divided by how many queries could see each key; that division is undone here. It scores the prompt once and
evicts nothing while generating, so that only the prompt's scores can be compared.
"""

from __future__ import annotations

from fna.interrupts import run

if __name__ == "__main__":  # before the other imports, which take seconds
    run("store_kvpress")

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

FILE = Path(__file__).parents[1] / "tests/kv/stored/kvpress.safetensors"
TOKENS, WINDOW, POOL = 96, 8, 5


def small() -> LlamaForCausalLM:
    """Weights drawn by name order from one seed: the same under every release of transformers."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.25)
    return model


def prompt() -> Tensor:
    """Ids ``[1, TOKENS]``."""
    return torch.randint(0, 50, (1, TOKENS), generator=torch.Generator().manual_seed(1))


def main() -> None:
    from kvpress import ObservedAttentionPress, SnapKVPress

    found: dict[str, Tensor] = {}

    def watched(kind: type, name: str) -> type:
        def score(self: Any, module: Any, *args: Any) -> Tensor:
            scores = kind.score(self, module, *args)  # type: ignore[attr-defined]
            found[f"{name}.{module.layer_idx}"] = scores[0].clone()
            return scores

        return type(kind.__name__, (kind,), {"score": score})

    with torch.inference_mode():
        for name, press in (
            ("snapkv", watched(SnapKVPress, "snapkv")(compression_ratio=0.5, window_size=WINDOW, kernel_size=POOL)),
            ("h2o", watched(ObservedAttentionPress, "h2o")(compression_ratio=0.5)),
        ):
            model = small()
            with press(model):
                model(prompt())
            assert f"{name}.2" in found, name
    seen_by = torch.arange(TOKENS, 0, -1)
    stored = {key: (x * seen_by if key.startswith("h2o") else x).contiguous() for key, x in found.items()}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, FILE, {"kvpress": "0.5.5"})
    print(f"{FILE}: {FILE.stat().st_size} bytes")
