"""A task with an exhibit of its own, and a reducer: each one file and one YAML in a folder outside the tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Cli
from tests.test_run import words

TASK = '''
"""A toy: how bright an image's embedding is, with a picture and a file of its own."""
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fna.tasks.base import Outcome
from fna.tasks.images import look


@dataclass
class Bright:
    threshold: float = 0.0
    version: int = 1

    def check(self, model, dataset): ...

    def forward(self, model):
        return model.encode_image

    def evaluate(self, model, dataset, run):
        seen = look(self.forward(model), model, dataset, run)
        bright = (seen.outputs.mean(1) > self.threshold).astype(int)
        n = len(seen.kept)
        keys = [dataset.examples[place].key for place in seen.kept]
        return Outcome(keys, {"seen": np.ones(n), "bright": bright}, seen.outputs, bright, ["b"] * n, ["b"] * n, seen.skipped)

    def metrics(self, sums):
        return {"brightness": 100.0 * sums["bright"] / sums["seen"]}

    def exhibits(self, show):
        show.table("bright.json", {"passes": [one.label for one in show.passes]})
        return {"bright": [{"image": show.picture("bright", Image.new("RGB", (8, 8), "red")), "text": "as bright as it gets"}]}
'''
REDUCER = '''
"""A toy: the last quarter of the tokens goes before the MLP of one block."""
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DropTail:
    block: int = 1

    def __call__(self, x, place):
        if place.layer != self.block:
            return x, place.tokens
        return x[:, : x.shape[1] * 3 // 4], replace(place.tokens, grid=None, version=place.tokens.version + 1)
'''


@pytest.fixture
def house(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody with a toy task and a toy reducer."""
    home = tmp_path / "mine"
    for group, name, code, target in (("task", "bright", TASK, "Bright"), ("reduce", "tail", REDUCER, "DropTail")):
        (home / group).mkdir(parents=True)
        (home / f"toy_{name}.py").write_text(code)
        (home / group / f"{name}.yaml").write_text(f"# A toy.\n_target_: toy_{name}.{target}\n")
    return {"FNA_CONF_DIR": str(home), "PYTHONPATH": f"{ROOT}:{home}"}


def test_a_toy_task_and_a_toy_reducer_run_without_a_change_to_the_runner(
    cli: Cli, image_folder: Path, tmp_path: Path, house: dict[str, str]
) -> None:
    done = cli(*words(image_folder, "task=bright", "reduce=tail", 'versus=["reduce=none"]'), env=house)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert set(result["metrics"]) == {"brightness"}
    less, all_tokens = result["contenders"]
    assert (less["reduce"], all_tokens["reduce"]) == ("tail", "none")
    assert less["cost"]["flops"]["variant"] < all_tokens["cost"]["flops"]["variant"]
    assert less["fidelity"]["output_error"] != all_tokens["fidelity"]["output_error"]
    assert "reducing" in less["cost"]["stages"]
    assert json.loads((folder / "bright.json").read_text())["passes"][0] == "full"
    page = (folder / "report.html").read_text()
    assert "as bright as it gets" in page
