"""Reducers from the command line: their own rows, their names, their cost, and refusals in a line."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Cli
from tests.test_run import one_line, results, words


def test_a_run_of_reducers(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    versus = 'versus=["reduce=tome reduce.r=4","reduce=resize reduce.scale=0.5","attn=fna","reduce=none"]'
    done = cli(*words(image_folder, "attn=exact", "reduce=tome", "reduce.r=2", versus))
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "outputs" / "runs")
    contenders = result["contenders"]
    assert [one["reduce"] for one in contenders] == ["tome", "tome", "resize", "tome", "none"]
    assert len({one["hash"] for one in contenders}) == 5
    full = contenders[-1]["cost"]["flops"]["variant"]
    two, four, half = (one["cost"]["flops"]["variant"] for one in contenders[:3])
    assert half < four < two < full
    assert {"reducing", "attention"} <= set(contenders[0]["cost"]["stages"])
    assert contenders[0]["fidelity"]["output_error"] > contenders[-1]["fidelity"]["output_error"]
    assert "ToMe" in done.stdout
    again = cli(*words(image_folder, "attn=exact", "reduce=tome", "reduce.r=2", "timing.enabled=false"))
    assert "is there, not computed again" in again.stdout + again.stderr


def test_what_a_reducer_cannot_take_is_one_line(cli: Cli, image_folder: Path) -> None:
    for more, said in (
        (["reduce=tome", "reduce.r=-1"], "reduce.r=-1"),
        (["reduce=pitome", "reduce.keep=0.2"], "reduce.keep=0.2"),
        (["reduce=atc", "reduce.linkage=ward"], "reduce.linkage=ward"),
        (["reduce=tome", "reduce.keep=0.2"], "reduce"),
    ):
        assert said in one_line(cli(*words(image_folder, *more)))


def test_rotary_positions_are_refused_before_a_pass(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    model = ["model=vit", "model.name=vit_small_patch16_rope_224", "model.random=true", "model.num_classes=2", "task=fidelity"]
    done = cli(*words(image_folder, *model, "image_size=32", "reduce=tome", "layers=all"))
    assert "rotary positions" in one_line(done)
    assert not results(tmp_path / "outputs" / "runs")  # refused before anything ran
