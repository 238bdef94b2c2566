"""Generated command lines, right and wrong, and what the program says of each: ``python -m tests.reliability.lines 600``.

A line is asked in this process, by the very functions that `fna.runner.cli.main` calls up to where weights would be loaded. A right
line has to be planned; a wrong one has to be refused in one line that names what is wrong; neither may end in a traceback.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from fna.configs import CONF
from fna.errors import UserError
from fna.runner.asked import ask
from fna.runner.cli import checked
from fna.runner.refusals import one_line
from fna.runner.versus import composed
from fna.schema import register

NEVER = ("", "[]", "{a:1}", "nan", "inf", "-inf", "[1,[2]]", "'  '")  # what no scalar key takes
RIGHT = {
    "bool": ("true", "false", "yes", "no", "on", "off", "True"),
    "count": ("1", "3", "16", "2.0", "1e1"),
    "whole": ("0", "1", "5"),
    "positive": ("0.5", "1", "1e-3", "20"),
    "seed": ("0", "7", "4294967295"),
    "text": ("something", "'two words'", "'a, b'", "name-2"),
}
WRONG = {
    "bool": (*NEVER, "2", "maybe", "null", "[true]", "0.0", "nope"),
    "count": (*NEVER, "0", "-1", "1.5", "x", "null", "true", "1e12", "1180591620717411303424", "3px", "'4'"),
    "whole": (*NEVER, "-1", "1.5", "x", "null", "false", "1e12", "ten"),
    "positive": (*NEVER, "-1", "0", "x", "null", "true", "1e400", "'0.5'"),
    "seed": (*NEVER, "-1", "4294967296", "1.5", "x", "null", "1180591620717411303424"),
    "text": ("''", "[a]", "{a:1}", "1.5", "true", "nan"),
}


def one_of(*names: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Right and wrong values of a key that takes one of a few words."""
    return names, ("nonsense", *NEVER, "3", "true", f"[{names[0]}]", f"{names[0]}x", names[0].upper())


def of_kind(kind: str, more: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Right and wrong values of a kind, ``more`` right ones moved over to where they belong."""
    return (*RIGHT[kind], *more), tuple(value for value in WRONG[kind] if value not in more)


def at_root(kind: str, more: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same of a root knob, which OmegaConf types: a whole float is no whole number to it."""
    right, wrong = of_kind(kind, more)
    return tuple(value for value in right if value not in FLOATS), (*wrong, *FLOATS)


FLOATS = ("2.0", "1e1")
NULL = ("null",)
INVERSE = {"steps": of_kind("count"), "ridge": of_kind("positive"), "resample_every": of_kind("whole"),
           "inverse": one_of("newton", "ridge", "exact")}  # fmt: skip
MASK = {"mode": one_of("mask", "sink"), "pattern": one_of("type1", "type2", "all"), "cap": of_kind("count"),
        "unmasked": of_kind("bool"), "threshold": of_kind("positive", NULL), "factor": of_kind("positive", ("0",)),
        "rule": one_of("channel", "cls_proxy", "incoming")}  # fmt: skip
DRAWN = {
    "count": of_kind("count"),
    "size": (("32", "256", "64.0"), WRONG["count"] + ("15", "1e9")),
    "split": one_of("test", "val", "train"),
}
VERSUS = (
    ("[]", '["attn=exact"]', '["landmarks=16"]', '["attn=nystromformer landmarks=16","sampler=random"]', '["attn.steps=3"]',
     '["layers=all","layers=4-7"]', '["mask=both mask.cap=3"]', "['attn=low_rank landmarks=5']", '["attn.inverse=ridge"]'),
    ("1", "null", "abc", "[abc]", "[[a]]", "['']", "['  ']", "[null]", "[true]", "{a:1}", '["attn=exact","attn=exact"]',
     '["attn=fna"]', '["seed=3"]', '["model=clip"]', '["attn=nope"]', '["attn="]', '["landmarks=0"]',
     '["attn=exact landmarks=16"]', '["attn"]', '["landmarks=16 landmarks=32"]', '["attn.steps=x"]', '["attn=fna \'x"]',
     '["layers=99"]', '["+attn.foo=1"]', '["attn.foo=1"]', '["attn=fna,exact"]', '["~attn"]', '["versus=[]"]', '["kv=fast"]',
     '["mask=both mask.cap=1.5"]', '["attn.landmarks=7"]', '["tolerance=0"]', '["attn._target_=os.getcwd"]',
     '["hydra.run.dir=x"]', '["attn=low_rank layers=auto"]', '["landmarks=${no}"]'),
)  # fmt: skip
# the words that have to stand beside it -> key -> (right values, wrong values)
KEYS: Mapping[tuple[str, ...], Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    (): {
        "landmarks": (("1", "16", "0.5", "64", "auto"), (*NEVER, "0", "-3", "1.5", "x", "null", "true", "[16]", "2e9")),
        "layers": (("all", "last-half", "4-7", "'0,3'", "-1", "[0,1]", "auto"), ("x", "40", "7-4", "1.5", "nan", "",
        "null", "true", "{a:1}")),
        "image_size": (("64", "256", "[64,128]", "null"), (*NEVER, "256.5", "-8", "0", "x", "[8,8,8]", "1e6", "true", "257")),
        "limit": at_root("count", NULL), "batch_size": at_root("count"), "seed": of_kind("seed"), "strict": of_kind("bool"),
        "workers": of_kind("whole", ("auto",)), "data_cache": of_kind("bool"),
        "bootstrap": (("100", "2000"), (*WRONG["count"], "99", "1e9")), "gallery": of_kind("whole"),
        "timing.enabled": of_kind("bool"), "timing.rounds": at_root("count"), "timing.batch_size": at_root("count"),
        "dtype": one_of("float32", "bfloat16", "float16"), "device": one_of("auto", "cpu"),
        "tolerance": of_kind("positive"), "retry_failed": of_kind("bool"), "rows_dir": of_kind("text"),
    },
    ("attn=fna", "landmarks=24"): {"versus": VERSUS},
    ("attn=fna",): {f"attn.{key}": values for key, values in INVERSE.items()},
    ("attn=nystromformer",): {f"attn.{key}": values for key, values in INVERSE.items()},
    ("attn=low_rank",): {"attn.partition": (("false", "no"), WRONG["bool"])},
    ("sampler=fps",): {"sampler.features": one_of("q", "k", "v", "qk")},
    ("mask=both",): {f"mask.{key}": values for key, values in MASK.items()},
    ("mask=test_time_registers",): {
        "mask.neurons": of_kind("whole"), "mask.calibration": of_kind("count"), "mask.sparse": of_kind("bool"),
        "mask.value": one_of("per_block", "per_neuron"), "mask.patches": one_of("zero", "mean"),
    },
    ("dataset=shapes",): {f"dataset.{key}": values for key, values in (DRAWN | {"captions": one_of("full", "terse",
        "all"), "twins": of_kind("bool")}).items()},
    ("dataset=shapes_single",): {f"dataset.{key}": values for key, values in (DRAWN | {"by": one_of("shape", "colour")}).items()},
    ("dataset=shapes_segmented",): {"dataset.train_count": of_kind("count"), "task.boundary": (("0.02", "1"), WRONG["positive"]),
        "task.head.steps": of_kind("count"), "task.head.rate": of_kind("positive"), "task.head.refit": of_kind("bool"),
        "task.head.images": of_kind("count", NULL), "task.inference.mode": one_of("whole", "slide"),
        "task.inference.flip": of_kind("bool"), "task.inference.short_side": of_kind("count", NULL),
        "task.inference.stride": (("0.5", "1"), (*WRONG["positive"], "2"))},
    ("task=retrieval",): {"task.prompt": (("'a photo of {}'", "'{}'"), ("hello", "''", "3", "[x]", "true"))},
    ("dataset=shapes_single", "task=classification"): {"task.head": one_of("auto", "zeroshot"),
        "task.templates": (("simple", "openai", "['a {}.']"), ("nonsense", "3", "true", "[a]", "''", "[]"))},
    ("dataset=shapes_single", "task=knn"): {"task.k": of_kind("count"), "task.temperature": of_kind("positive")},
    ("dataset=shapes_single", "task=probe"): {"task.epochs": of_kind("count"),
        "task.batch": (RIGHT["count"], (*WRONG["count"], "16385")),
        "task.rates": (("[0.1]", "[1,0.5]"), ("[]", "[x]", "[-1]", "[nan]", "0.1", "", "null"))},
    ("model=vit", "model.random=true", "dataset=shapes_single"): {
        "model.norm_eps": of_kind("positive", NULL), "model.num_classes": of_kind("count", ("0", "null")),
        "model.domain": one_of("photographs", "generated"), "model.pool": one_of("token", "avg"),
        "model.mean": (("[0.5,0.5,0.5]", "null"), ("[0.5]", "0.5", "[x,y,z]", "[nan,0,0]", "''")),
        "model.crop_mode": one_of("center", "squash"), "model.crop_pct": (("0.9", "1", "null"), ("1.5", "x", "nan", "-1",
        "[1]"))},
    ("model=clip_l14", "model.random=true"): {"model.quick_gelu": of_kind("bool", NULL), "model.depth": (("24", "null"),
        of_kind("count", NULL)[1])},
    ("logger=csv",): {"logger.file": (("log.csv",), ("''", "[a]", "true", "1.5"))},
    ("logger=wandb",): {"logger.mode": one_of("offline")},
}  # fmt: skip
GROUPS = {"model": ("clip", "clip_shapes"), "attn": ("fna", "nystromformer"), "mask": ("none", "both"), "logger": ("none", "csv"),
          "reduce": ("none",), "kv": ("none",), "dataset": ("shapes",), "task": ("retrieval", "tokens")}  # fmt: skip
UNREADABLE = ("task.prompt=a photo of {}", "model.checkpoint=epoch=3-step=100.ckpt", "dataset.root=/data/my (1)",
    "dataset.root='/x",
              "dataset.root=/x]", "dataset.root=/straße", "seed", "=3", "seed =3", "seed.=3", ".seed=3", "a..b=1", "landmarks:16",
              "landmarks[0]=1", "--landmarks=16", "-landmarks", "--nonsense", "dataset.root=a}b",
              'dataset.root=say "x')  # fmt: skip
FOREIGN = ("foo=1", "+foo=1", "++foo=1", "+attn.foo=1", "attn.foo=1", "+mask.foo=1", "+kv.foo=1", "+timing.foo=1", "~attn",
    "~seed",
           "attn@model=fna", "attn=[fna,exact]", "attn={steps:3}", "landmarks.x=1", "timing=3", "attn.landmarks=7",
           "attn.sampler=null",
           "attn.sampler.features=v", "landmark=3", "atn=fna", "attn.steps.x=1", "experiment.x=1", "dataset.nonsense=1",
           "seed=1,2",
           "attn=fna,exact", "seed=range(1,3)", "attn._target_=os.getcwd", "attn._target_=nowhere.Mine",
           "task._target_=fna.ops.exact.Exact",
           "attn._target_=''", "sampler._target_=fna.tasks.heads.LinearHead", "dataset._target_=fna.models.timm.TimmModel",
           "seed=${nothing}", "seed=${", "task.version=7", "+task.version=7", "+attn._partial_=true", "+task._recursive_=false",
           "--config-dir=/nowhere")  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A command line; ``right`` says whether a run could do what it asks."""

    words: tuple[str, ...]
    right: bool


def lines(count: int, seed: int = 0) -> list[Line]:
    """``count`` different lines, the same for a seed: about a third of them right."""
    drawn, found = random.Random(seed), dict[Line, None]()
    kinds = (_right, _wrong_value, _wrong_value, _wrong_option, _twice, _unread, _unused)
    while len(found) < count:
        found[drawn.choices(kinds, (3, 3, 2, 1, 0.5, 0.7, 0.4))[0](drawn)] = None
    return list(found)


def _right(drawn: random.Random) -> Line:
    beside, keys = drawn.choice(list(KEYS.items()))
    typed = drawn.sample(list(keys), min(len(keys), drawn.choice((1, 1, 2))))
    if {"landmarks", "layers"} <= set(typed):
        typed = typed[:1]
    words = [f"{key}={drawn.choice(keys[key][0])}" for key in typed]
    return Line((*beside, *(() if words[0].startswith(("attn", "model")) and beside else _option(drawn, beside)), *words), True)


def _option(drawn: random.Random, beside: Sequence[str]) -> tuple[str, ...]:
    """A right option of a group that nothing else depends on, now and then."""
    given = {word.partition("=")[0] for word in beside}
    group = drawn.choice([group for group in ("reduce", "kv", "logger") if group not in given])
    return (f"{group}={drawn.choice(GROUPS[group])}",) if drawn.random() < 0.3 else ()


def _wrong_value(drawn: random.Random) -> Line:
    beside, keys = drawn.choice(list(KEYS.items()))
    key = drawn.choice(list(keys))
    return Line((*beside, f"{key}={drawn.choice(keys[key][1])}"), False)


def _wrong_option(drawn: random.Random) -> Line:
    group = drawn.choice(list(GROUPS))
    name = drawn.choice(GROUPS[group])
    wrong = [
        "",
        "nonsense",
        f"{name}x",
        "3",
        "true",
        f"[{name}]",
        f"../{group}/{name}",
        f"{name}.yaml",
        "null",
    ]
    return Line((f"{group}={drawn.choice(wrong)}",), False)


def _twice(drawn: random.Random) -> Line:
    keys = KEYS[()]
    key = drawn.choice(list(keys))
    first, second = drawn.choice(keys[key][0]), drawn.choice(keys[key][0])
    return Line((f"{key}={first}", "attn=fna", f"{key}={second}"), False)


def _unread(drawn: random.Random) -> Line:
    return Line((*drawn.sample(("strict=no", "gallery=0"), drawn.choice((0, 1))), drawn.choice(UNREADABLE + FOREIGN)), False)


def _unused(drawn: random.Random) -> Line:
    word = drawn.choice((("exact", "landmarks=16"), ("exact", "landmarks=auto"), ("exact", "sampler=random"), ("low_rank",
        "sampler=fps"),
                         ("nystromformer", "sampler=random"), ("exact", "sampler.features=q"), ("nystromformer",
                         "sampler.features=k")))  # fmt: skip
    return Line((f"attn={word[0]}", word[1]), False)


def asked(words: Sequence[str]) -> str | None:
    """What the program says of a line: None where it would go on to load weights, else its one line. Bugs are raised."""
    register()
    GlobalHydra.instance().clear()
    try:
        overrides = [word for word in checked(words) if not word.startswith("-")]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", overrides=overrides, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            names = {group: str(name) for group, name in cfg.hydra.runtime.choices.items() if "/" not in group}
            with open_dict(cfg):
                del cfg["hydra"]  # as `hydra.main` hands it over
            ask(composed(cfg, names, list(overrides)), list(overrides))
    except (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return one_line(error)
    return None


def faults(chosen: Sequence[Line]) -> Iterator[str]:
    """Each line that ended otherwise than it should have, with how."""
    for line in chosen:
        began = time.process_time()
        try:
            said = asked(line.words)
        except Exception as error:
            yield f"{' '.join(line.words)}: traceback {type(error).__name__}: {error}"
            continue
        if (said is None) != line.right:
            yield f"{' '.join(line.words)}: {'taken' if said is None else f'refused: {said}'}"
        elif said is not None and ("\n" in said or len(said) < 10 or "Traceback" in said):
            yield f"{' '.join(line.words)}: not one line: {said!r}"
        if (spent := time.process_time() - began) > 5:
            yield f"{' '.join(line.words)}: took {spent:.1f} s of CPU"


if __name__ == "__main__":
    drawn_lines = lines(int(sys.argv[1]) if len(sys.argv) > 1 else 600, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    wrong = 0
    for fault in faults(drawn_lines):
        wrong += 1
        print(fault, flush=True)
    print(f"{len(drawn_lines)} lines, {sum(line.right for line in drawn_lines)} of them right: {wrong} faults")
    sys.exit(wrong > 0)
