"""What a refusal says to write instead works when it is typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import pytest

from fna.errors import UserError
from fna.runner.chosen import values
from fna.runner.cli import checked
from fna.runner.parsing import parsed
from fna.runner.words import check_words
from tests.reliability.lines import asked

WRONG = [
    "seed=3.",
    "seed=3.0",
    "limit=4.",
    "limit=1e1",
    "batch_size=8.0",
    "+landmarks=3",
    "+seed=3",
    "+timing.rounds=3",
    "+attn=fna",
    "++attn=fna",
    "+attn.steps=3",
    "+experiment=masking_start_block",
    "++experiment=masking_start_block",
    "attn@model=fna",
    "~mask",
    "~logger",
    "~reduce",
    "layers=0,1",
    "layers=0-3: exact, 4-7: fna",
    "layers=0--1",
    "layers=3--2",
    "image_size=64,128",
    "rows_dir=a,b",
    "rows_dir=a(b",
    "rows_dir=choice(a,b)",
    "rows_dir=${HOME}",
    "rows_dir=${HOME}/rows",
    "rows_dir=epoch=3",
    "rows_dir=~/rows",
    "rows_dir=~",
    "task.prompt=a{},b",
    "task.prompt=a=(photo)={}",
    "+hydra/launcher=joblib",
    "hydra=null",
    "hydra={}",
]


def written(said: str) -> str | None:
    """The word that a refusal says to write."""
    found = re.search(r"(?:write|as one value write) (.+?)(?:, for one)?\.?$", said)
    return None if found is None else found[1]


@pytest.mark.parametrize("word", WRONG)
def test_what_is_to_be_written_is_taken(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    said = asked([word])
    assert said is not None, "was taken"
    assert "\n" not in said
    remedy = written(said)
    assert remedy is not None, said
    key = word.lstrip("+~").partition("=")[0]
    (typed,) = shlex.split(remedy if "=" in remedy else f"{key}={remedy}")  # of layers the value alone is told
    assert asked([typed]) is None, typed


def test_a_path_in_ones_home_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert asked(["rows_dir=~/my rows"]) == (
        "rows_dir=~/my rows: shells know ~ at the start of a word alone; write \"rows_dir='/home/somebody/my rows'\""
    )


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("model.checkpoint=a/epoch=3.ckpt,a/epoch=4.ckpt", ["a/epoch=3.ckpt", "a/epoch=4.ckpt"]),
        ("model.checkpoint=a/epoch=3-step=300.ckpt,b/best.pt", ["a/epoch=3-step=300.ckpt", "b/best.pt"]),
        ("dataset.root=My Photos (1), cropped,D2", ["My Photos (1), cropped", "D2"]),
        ("dataset.classes=[cat,dog],[bird (blue),dog]", [["cat", "dog"], ["bird (blue)", "dog"]]),
        ("model.checkpoint=a=1,'b,c',$x=2", ["a=1", "b,c", "$x=2"]),
    ],
)
def test_a_sweep_of_what_hydra_cannot_read_is_quoted_value_by_value(word: str, meant: list[object]) -> None:
    """Two files of Lightning's naming are two jobs; in quotes as a whole they would be one file that is not there."""
    said = str(asked([word]))
    remedy = said.partition("write ")[2].partition(f" for {len(meant)} values (-m)")[0]
    (typed,) = shlex.split(remedy)
    check_words([typed], sweep=True)
    assert [*values(parsed(typed))] == meant


def test_a_comma_before_a_blank_parts_nothing() -> None:
    """CLIP's commonest template among them; where each part may be meant, it parts a list."""
    words = ["dataset=shapes_single", "task=classification"]
    for typed, meant in {
        "[a photo of a {}, a type of pet.]": "['a photo of a {}, a type of pet.']",
        "[a {}, one {}]": "['a {}','one {}']",
    }.items():
        assert str(asked([*words, f"task.templates={typed}"])).endswith(f'write "task.templates={meant}"')
    assert str(asked(["dataset.root=My Photos (1), cropped"])).endswith("write \"dataset.root='My Photos (1), cropped'\"")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("attn=fna landmarks=16", "attn=fna landmarks=16: is more than one word; write attn=fna landmarks=16"),
        (
            "versus=[attn=fna landmarks=16]",
            "versus=[attn=fna landmarks=16]: Hydra reads some of these signs as its own; write "
            "\"versus=['attn=fna landmarks=16']\"",
        ),
        ("", "'': a word is empty, perhaps a variable of the shell that is not set; drop it."),
        ("kv=false", "kv=false: no such kv; did you mean none?"),
        ("reduce=off", "reduce=off: no such reduce; did you mean none?"),
    ],
)
def test_what_was_meant_is_told(word: str, said: str) -> None:
    assert str(asked([word])).startswith(said)


@pytest.mark.parametrize(
    "words",
    [
        ["landmarks=16,32"],
        ["landmarks=choice(16,32)"],
        ["seed=range(1,3)"],
        ["seed=shuffle(1,2)"],
        ["attn=fna,exact"],
        ["attn=glob(f*)"],
        ["attn.steps=3,4"],
        ["layers=4-7,6-7"],
        ["dtype=float32,bfloat16"],
    ],
)
def test_what_needs_m_is_taken_with_it(words: Sequence[str]) -> None:
    with pytest.raises(UserError, match="several values are a sweep, which needs -m"):
        checked(words)
    assert checked(["-m", *words])


@pytest.mark.parametrize(
    "word",
    [
        "~landmarks",
        "~attn.steps",
        "~seed",
        "~experiment",
        "~timing",
        "~task",
        "~hydra.run.dir",
        "hydra/launcher=null",
        "hydra/sweeper=null",
        "hydra/sweeper=",
        "hydra/launcher=[basic]",
        "hydra.run.dir=null",
        "hydra.callbacks=null",
        "hydra/nope=abc",
    ],
)
def test_a_word_to_drop_is_told_so(word: str) -> None:
    assert str(asked([word])).endswith("drop the word.")


@pytest.mark.parametrize(
    ("word", "said"),
    {
        "task.prompt={}{}": "give a text with {} in it, once, and no other brace.",
        "task.prompt=a photo of {x}": "give a text with {} in it, once",
        "attn.inverse=bool(x)": "give newton, exact, ridge or auto.",
        "mask=both mask.mode=bool(x)": "give mask or sink.",
        # an endless sweep, and one of more jobs than anybody waits for
        "seed=range(0,1,0)": "is no list of at most 10000 values, a job each; write range(1,4)",
        "seed=range(0,nan)": "is no list of at most 10000 values",
        "seed=range(1000000000)": "is no list of at most 10000 values",
        "+hydra.nonsense=3": "+hydra.nonsense=3: Hydra has no such setting; drop the word.",
        # the folder that was typed, not one that was looked for
        "model=hf model.checkpoint=facebook/dinov2-small": "facebook/dinov2-small: no such checkpoint; model=hf takes a folder",
        # as another value it would be refused again: what is taken is told instead
        "seed=glob(*)": "glob(...) stands for options of a group; name the values.",
        "tolerance=interval(0,1)": "interval(...) is for a sweeper that searches; name the values.",
        "strict=bool(no)": "give true or false.",
        "image_size=(224,224)": "rows and columns ([352,480])",
        "attn==fna": "give agent, clustered, exact, fna",
        "mask=both mask.mode=x,y": "mask.mode=x,y: several values are a sweep, which needs -m.",
        "hydra/launcher=basic,joblib": "several values are a sweep, which needs -m.",
        "experiment=masking_start_block,low_rank": "several values are a sweep, which needs -m.",
        "attn.sampler=${mask}": "attn.sampler follows sampler; set sampler=... instead.",
        "versus=${rows_dir}": "versus=outputs/rows: give a list of contenders",
        "attn.steps=bool(no)": "give a whole number from 1",
        "seed=tag(a,1)": "give a whole number from 0",
        "dtype=json_str(float32)": "give float32, bfloat16 or float16.",
        "versus=[attn=fna]": "versus=['attn=fna']",
        # interpolations, in our words
        "seed=${seed}": "seed=${seed}: leads back to itself; give a value.",
        "seed=${nothing}": "seed=${nothing}: the config has no key nothing; give a value.",
        "seed=${oc.env:NOPE}": "NOPE is not set in the environment; set it, or give a value.",
        "rows_dir=${nope:3}": "there is no such thing to look up",
        # Hydra's own
        "hydra/launcher=nope": "hydra/launcher=nope: no such hydra/launcher; there is basic, joblib",
        "hydra.searchpath=[file:///nowhere]": "with --config-dir=FOLDER, or in FNA_CONF_DIR.",
        # the knob that was typed
        "attn=low_rank landmarks=0.5": "landmarks=0.5: give a whole number from 1 to 1000000, which attn=low_rank needs.",
        # a data set that cannot serve a task is known before weights are loaded
        "task=segmentation dataset=shapes": "dataset=shapes has no label maps; leave task out, or give task=fidelity.",
        "task=retrieval dataset=shapes_segmented": "dataset=shapes_segmented has no captions; leave task out",
        "task=knn dataset=shapes": "dataset=shapes has no class for each image; leave task out",
        "task=classification dataset=shapes": "dataset=shapes has no class for each image; leave task out",
    }.items(),
)  # fmt: skip
def test_refused_in_our_words(word: str, said: str) -> None:
    found = asked([word] if word.startswith("task.prompt") else word.split())
    assert found is not None, "was taken"
    assert said in found
    assert "full_key" not in found
