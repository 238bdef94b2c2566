"""What the command line says of words that it cannot use: one line that names the word and how to write it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fna.errors import UserError
from fna.runner.cli import checked
from fna.runner.words import check_words, parsed, written
from tests.conftest import ROOT
from tests.reliability.lines import asked

READ = {("dataset.root", "/data/a,b")}  # what Hydra reads as it stands, as several values


@pytest.mark.parametrize(
    ("words", "said"),
    {
        # 7: the result would tell another setting than ran
        "attn.landmarks=7": "attn.landmarks=7: attn.landmarks follows landmarks; set landmarks=... instead",
        "attn=low_rank attn.rank=3": "attn.rank=3: attn.rank follows landmarks; set landmarks=...",
        "sampler=random sampler.seed=5": "sampler.seed=5: sampler.seed follows seed; set seed=...",
        "attn.sampler.features=v": "attn.sampler follows sampler; set sampler.features=...",
        "attn.sampler=null": "attn.sampler follows sampler",
        "+attn.landmarks=7": "+attn.landmarks=7: attn.landmarks follows landmarks; set landmarks=... instead",
        "sampler=random +sampler.seed=5": "+sampler.seed=5: sampler.seed follows seed; set seed=... instead",
        "model=vit model.random=true model.mean=[123.7,116.3,103.5]": "model.mean=[123.7,116.3,103.5]: give a list [...], each a "
        "number from 0 to 1 (3 of them), or null.",
        "model=clip model.random=true model.std=[58.4,57.1,57.4]": "model.std=[58.4,57.1,57.4]: give a list [...], each a number "
        "above 0 and up to 1",
        # 15: options are typed
        "attn=null": "attn=null: no such attn; there is agent, clustered, exact, fna",
        "attn=": "attn=: no such attn",
        "mask=null": "mask=null: no such mask; did you mean none?",
        "attn=[fna,exact]": "attn=[fna,exact]: no such attn",
        "attn={steps:3}": "attn={steps:3}: no such attn",
        "image_size=256.5": "image_size=256.5: give pixels",
        "seed=1180591620717411303424": "seed=1180591620717411303424: give a whole number from 0 to 4294967295.",
        "seed=2**70": "seed=2**70: give a whole number",
        "attn.steps=nan": "attn.steps=nan: give a whole number",
        "attn.steps=": "attn.steps=: give a whole number",
        "attn.steps=[1]": "attn.steps=[1]: give a whole number",
        "attn.ridge=inf": "attn.ridge=inf: give a number above 0.",
        "mask=both mask.cap=1.5": "mask.cap=1.5: give a whole number",
        "mask=both mask.unmasked=perhaps": "mask.unmasked=perhaps: give true or false.",
        "dataset.size=1e9": "dataset.size=1000000000: give a whole number from 16 to 4096.",
        "dataset.count=1.5": "dataset.count=1.5: give a whole number",
        "dataset.captions=[full]": "dataset.captions=[full]: give terse, coloured, related, detailed, full or all.",
        "strict=5": "strict=5: give true or false.",
        "task.prompt=": "task.prompt=: give a text with {} in it, once",
        "foo=1": "foo: no such knob",
        "+foo=1": "foo: no such knob",
        "+attn.foo=1": "attn.foo: fna.ops.nystrom.FastNystrom has no such key; it has sampler",
        "+mask.foo=1": "mask.foo: mask=none has no keys",
        "+timing.foo=1": "timing.foo: timing has no key foo; it has enabled, rounds, batch_size.",
        "~attn": "~attn: nothing can be left out",
        "landmarks=16 landmarks=32": "landmarks is given twice, landmarks=16 and landmarks=32: keep one",
        "attn=fna attn=exact": "attn is given twice",
        "attn=exact landmarks=32": "landmarks=32: attn=exact counts no landmarks; leave it out.",
        "attn=exact sampler=fps": "sampler=fps: attn=exact does not draw tokens by it",
        "attn=nystromformer sampler=random": "sampler=random: attn=nystromformer does not draw tokens by it; leave it out.",
        "attn=nystromformer sampler.features=k": "sampler.features=k: attn=nystromformer does not draw tokens by it",
        "attn._target_=os.getcwd": "os.getcwd has no such key",
        "attn._target_=fna.ops.landmarks.Uniform": "fna.ops.landmarks.Uniform",
        "task.head=head model=clip dataset=shapes_single task=classification": "model=clip_shapes has no classification head",
        # 18: a model that cannot serve a task is refused before its weights are loaded
        "model=dinov2 task=retrieval": "task=knn or task=probe",
        "model=dinov2 dataset=shapes_single task=classification": "task=knn or task=probe",
        "model=dinov2_reg dataset=shapes_segmented task=segmentation_zeroshot": "task=knn or task=probe",
        # 8: a sweep of no job
        "-m attn=glob(x*)": "attn=glob(x*): matches none of agent, clustered, exact, fna",
        "-m landmarks=range(16,16)": "landmarks=range(16,16): names no value",
        "landmarks=16,32": "landmarks=16,32: several values are a sweep, which needs -m",
        "-m hydra.run.dir=x landmarks=16,32": "hydra.run.dir=x: the folder of a sweep is hydra.sweep.dir; write hydra.sweep.dir=x",
        "-m attn=exact landmarks=16,32": "landmarks=16,32: attn=exact counts no landmarks",
    }.items(),
)  # fmt: skip
def test_refused(words: str, said: str) -> None:
    found = asked(words.split(" "))
    assert found is not None, "was taken"
    assert said in found


@pytest.mark.parametrize(
    "words",
    [
        "model=vit model.random=no model.pretrained=yes dataset=shapes_single",
        "mask=both mask.unmasked=off",
        "attn.steps=7.0",
        "landmarks=0.5",
        "attn=fna landmarks=auto",
        "attn=exact mask=both",
        "attn=low_rank landmarks=3",
        "++landmarks=3",
        "-m attn=fna,exact landmarks=64",  # natural: one of them uses the count
        "-m attn=fna,nystromformer sampler=random",
        "experiment=shapes_segmentation landmarks=32",
        "experiment=masking_start_block seed=3",
    ],
)
def test_taken(words: str) -> None:
    if words.startswith("-m"):
        check_words(words.split()[1:], sweep=True)
    else:
        assert asked(words.split()) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [  # as a shell hands on what was typed without quotes
        (["layers={0-5:", "exact,", "6-11:", "fna}"], "layers={0-5: exact, 6-11: fna}"),
        (["layers=0-5:exact", "layers=6-11:fna"], "layers={0-5:exact,6-11:fna}"),
        (["image_size=[224,", "224]", "seed=1"], "image_size=[224, 224]"),
    ],
)
def test_what_the_shell_has_taken_apart_is_told_in_quotes_and_taken_in_them(typed: list[str], meant: str) -> None:
    with pytest.raises(UserError, match=f"the shell .*; write {re.escape(shlex.quote(meant))}"):
        check_words(["attn=fna", *typed])
    check_words(["attn=fna", meant])


def test_a_key_that_stands_twice_in_a_mapping_is_refused_for_one_would_be_lost() -> None:
    with pytest.raises(UserError, match=r"layers=\{0: fna, 0: exact\}: a key stands there twice"):
        check_words(["layers={0: fna, 0: exact}"])
    check_words(["layers={0: fna,1-2 : exact,4:exact}"])


@pytest.mark.parametrize("word", ["no", "off", "No", "'no'", "false"])
def test_no_is_false_everywhere(word: str) -> None:
    from hydra import compose, initialize_config_dir

    from fna.configs import CONF, instantiate

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["mask=both", f"mask.unmasked={word}"])
    assert instantiate(cfg.mask).unmasked is False
    assert cfg.mask.unmasked is False  # what is recorded is what runs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.prompt", "a photo of {}"),
        ("model.checkpoint", "epoch=3-step=100.ckpt"),
        ("dataset.root", "/data/my pictures (1)"),
        ("dataset.root", "/data/a,b/[c]/{d}"),
        ("dataset.root", "/data/$HOME/`x`"),
        ("dataset.root", "/straße/图"),
        ("task.prompt", "it's {}"),
        ("task.prompt", 'say "{}"'),
        ("task.prompt", 'it\'s "{}" \\'),
        ("dataset.root", "'/unbalanced"),
        ("dataset.root", 'C:\\data\\x"y'),
    ],
)
def test_a_word_that_hydra_cannot_read_is_shown_as_it_has_to_be_written(key: str, value: str) -> None:
    """And what is shown works: through a shell, Hydra reads the value that was meant."""
    advice = written(key, value)
    typed = subprocess.run(["bash", "-c", f"printf %s {advice}"], capture_output=True, text=True, check=True).stdout
    assert typed == shlex.split(advice)[0]
    assert parsed(typed).value() == value
    if (key, value) not in READ:
        with pytest.raises(UserError) as refused:
            parsed(f"{key}={value}")
        assert f"{key}={value}: " in str(refused.value)
        assert str(refused.value).removesuffix(" for one").endswith(advice)


def test_flags_may_stand_anywhere() -> None:
    assert checked(["model=clip", "-m", "landmarks=16,32"]) == ["-m", "model=clip", "landmarks=16,32"]
    assert checked(["seed=1", "--cfg", "job", "--resolve"]) == ["--cfg", "job", "--resolve", "seed=1"]
    with pytest.raises(UserError, match=r"^--landmarks=16: no such flag; knobs are written without dashes"):
        checked(["--landmarks=16"])


def test_hydras_own_flags_work(tmp_path: Path) -> None:
    for words in (["--cfg", "job"], ["seed=3", "--info", "searchpath"], ["--hydra-help"], ["--cfg", "job", "-p", "attn"]):
        done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "from fna.configs import build_attention; build_attention('fna')",
        "import fna; fna.swap",
        "import fna; fna.attention",
        "import fna; fna.sample_landmarks",
        "from fna.configs import instantiate, load_option; instantiate(load_option('mask', 'both'))",
        "from fna.configs import instantiate, load_option; instantiate(load_option('model', 'clip_shapes'))",
        "from fna.runner.asked import ask",
        "from fna.runner.run import contest",
        "from fna.surgery.swap import swap_tower",
        "from fna.report.__main__ import report",
    ],
)
def test_works_in_a_fresh_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
