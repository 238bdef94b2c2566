"""Every file under conf/ composes, and every ``_target_`` takes the keys that its YAML gives it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from fna.configs import CONF, MEMBERS, choices, instantiate, summary
from fna.errors import UserError
from fna.report.expected import read_figures
from fna.runner.help import GROUPS as HELP_GROUPS
from fna.runner.help import _comments, help_text
from fna.runner.identity import model_config
from fna.schema import Knobs, register

GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
OPTIONS = [(group, name) for group in GROUPS for name in choices(group)]


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def targets(node: Any) -> list[dict[str, Any]]:
    """Every mapping below ``node`` that has a ``_target_``."""
    if isinstance(node, dict):
        own = [node] if node.get("_target_") else []
        return own + [found for value in node.values() for found in targets(value)]
    return [found for value in node for found in targets(value)] if isinstance(node, list) else []


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=[f"{group}={name}" for group, name in OPTIONS])
def test_option_composes_and_binds(group: str, name: str) -> None:
    cfg = composed(f"{group}={name}")
    node = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(node, dict)
    for found in targets(node):
        constructor = get_class(found["_target_"])
        keys = {str(key): value for key, value in found.items() if not str(key).startswith("_")}
        inspect.signature(constructor).bind(**keys)


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=[f"{group}={name}" for group, name in OPTIONS])
def test_option_says_what_it_is(group: str, name: str) -> None:
    assert summary(choices(group)[name]), f"conf/{group}/{name}.yaml: the first comment says in a sentence what this is"
    assert name in help_text()


def test_experiments_have_a_folder() -> None:
    root = Path(CONF).parent / "experiments"
    for name in choices("experiment"):
        assert (root / name / "README.md").is_file(), f"experiments/{name}/README.md is missing"
        expected = composed(f"experiment={name}").expected
        assert expected, f"conf/experiment/{name}.yaml names no figures to expect: expected: experiments/.../expected.csv"
        assert read_figures(expected)


def test_every_knob_is_explained_in_config_yaml() -> None:
    text, comments = help_text(), _comments()
    for knob in Knobs.__dataclass_fields__.keys() - HELP_GROUPS:
        assert "#" in comments[knob], f"conf/config.yaml does not say what {knob} means"
        assert comments[knob] in text


def test_a_model_is_told_by_its_tokenizer_not_by_the_place_of_it(tmp_path: Path) -> None:
    found = []
    for place, vocabulary in (("here", "a b"), ("there", "a b"), ("here", "a c")):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "vocab.txt").write_text(vocabulary)
        (tmp_path / place / "model.safetensors").write_text(f"weights {place}")
        found.append(model_config(composed("model=siglip", f"model.tokenizer={tmp_path / place}")))
    assert found[0] == found[1] != found[2]
    assert model_config(composed("model=siglip")) != found[0]


def test_a_model_is_told_by_the_config_in_its_folder(tmp_path: Path) -> None:
    def config(mean: float) -> dict[str, Any]:
        (tmp_path / "open_clip_config.json").write_text(f'{{"preprocess_cfg": {{"mean": {mean}}}}}')
        return model_config(composed("model=clip_l14", f"model.name=local-dir:{tmp_path}"))

    assert config(0.5) == config(0.5) != config(0.4)


def test_dataset_picks_the_task_and_an_explicit_task_wins() -> None:
    assert composed("dataset=coco_val2017").task._target_.endswith("Retrieval")
    assert composed("dataset=tiny_imagenet").task._target_.endswith("Classification")
    assert composed("dataset=tiny_imagenet", "task=retrieval").task._target_.endswith("Retrieval")


def test_landmarks_reach_the_attention() -> None:
    cfg = composed("attn=fna", "landmarks=17", "sampler=random", "seed=3")
    assert cfg.attn.landmarks == 17
    assert cfg.attn.sampler._target_.endswith("Random")


def test_a_target_of_the_old_place_is_refused_with_the_new_one() -> None:
    """`fna.attention` is the function; the maths lies in `fna.ops`."""
    with pytest.raises(UserError, match=r"fna\.attention\.exact\.Exact has moved; write fna\.ops\.exact\.Exact"):
        instantiate(OmegaConf.create({"_target_": "fna.attention.exact.Exact"}))


def test_what_a_group_makes_is_its_protocol() -> None:
    from fna.data.base import DatasetSource
    from fna.models.base import ModelSource
    from fna.tasks.base import Task

    for group, protocol in {"dataset": DatasetSource, "model": ModelSource, "task": Task}.items():
        members = {*vars(protocol), *vars(protocol).get("__annotations__", {})}
        assert set(MEMBERS[group]) <= members, f"fna.configs.MEMBERS[{group}]"


def test_help_says_how_a_run_is_put_elsewhere() -> None:
    assert "hydra.run.dir=DIR or hydra.sweep.dir=DIR puts it elsewhere" in help_text()
