"""What the command line says of what it refuses: one line, with the reason, before torch is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import fna
from fna.options import program
from fna.runner.cli import main
from fna.runner.wanted import network


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "reduce.r=16",
            "reduce has no key r: the reduce that is chosen has none of its own; reduce=random_drop, tome",
        ),
        ("attn.step=3", "attn has no key step; did you mean attn.steps?"),
        ("attn.foo=3", "attn has no key foo; it has sampler, landmarks, inverse, steps, ridge, resample_every."),
        ("attn.sampler.foo=3", "attn.sampler.foo=3: attn.sampler follows sampler; set sampler.foo=... instead."),
        ("hydra.foo=3", "hydra.foo=3: Hydra has no such setting; drop the word."),
        ("batch_size=x", "batch_size=x: give a whole number from 1 to 65536."),
        ("strict=maybe", "strict=maybe: give true or false."),
        ("timing=false", "timing=false: set timing.enabled or timing.rounds or timing.batch_size."),
        ("timing.enabled=maybe", "timing.enabled=maybe: give true or false."),
        ("timing.rounds=many", "timing.rounds=many: give a whole number from 1 to 100000."),
        ("hydra.run.dir=/proc/x", "/proc/x: cannot be written (No such file or directory); mend that or choose another folder."),
        ("attn=fma", "attn=fma: no such attn; did you mean fna?"),
        ("attn=fna+", "attn=fna+: no such attn; did you mean fna_plus?"),  # as tables print it, here and below
        ("attn=FNA local", "attn=FNA local: no such attn; did you mean fna_local?"),
        ("attn=Nyströmformer", "attn=Nyströmformer: Hydra reads some of these signs as its own; did you mean nystromformer?"),
        ("attn=fna,", "attn=fna,: ends in a comma; write several values without spaces: attn=A,B."),
        (
            "model=vit_small_patch14_dinov2",
            "model=vit_small_patch14_dinov2: no such model; a network by its name is model=vit model.",
        ),
        ("model=ViT-B-32", "model=ViT-B-32: no such model; a network by its name is model=clip_l14 model."),
        ("model=facebook/dinov2-small", "model=facebook/dinov2-small: no such model; a network by its name is model=hf model."),
        ("model=vit_b61", "model=vit_b61: no such model; did you mean vit_b16?"),
        ("layers=lasthalf", "layers=lasthalf: did you mean last-half? give all, last-half, auto, a block"),
        ("layers=last_half", "layers=last_half: did you mean last-half?"),
        ("layers=al", "layers=al: did you mean all?"),
        ("landmarks=auot", "landmarks=auot: did you mean auto?"),
        ("output_dir=x", "output_dir: no such knob; hydra.run.dir=FOLDER says where a run is written, hydra.sweep.dir=FOLDER"),
        ("precision=fp16", "precision: no such knob; did you mean dtype=float16?"),
        ("precision=bf16", "precision: no such knob; did you mean dtype=bfloat16?"),
        ("out=x", "out: no such knob; hydra.run.dir=FOLDER says where a run is written"),
        ("row_dir=x", "row_dir: no such knob; did you mean rows_dir?"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir=x: the folder of a run is hydra.run.dir; write hydra.run.dir=x"),
        ("reduce=PiToMe", "reduce=PiToMe: no such reduce; did you mean pitome?"),
    ],
)
def test_refused_in_one_line(word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", word])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


def test_the_version_is_that_of_fna(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--version"])
    main()
    assert capsys.readouterr().out.startswith(f"fna {fna.__version__}, hydra ")


@pytest.mark.parametrize(
    ("called", "here", "name"),
    [
        ("fna/report/__main__.py", "run.py", "python run.py"),
        ("fna/report/__main__.py", "notes", "python -m fna"),  # a checkout on PYTHONPATH, used from another folder
        ("fna/__main__.py", "run.py", "python -m fna"),
        ("bin/fna", "notes", "fna"),
    ],
)
def test_the_command_that_is_told_is_there_to_be_typed(
    called: str, here: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / here).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(Path(fna.__file__).parents[1] / called)])
    assert program() == name


@pytest.mark.parametrize(("given", "named"), [("ViT-B-32", "ViT-B-32"), ("ViT-L-14", "clip_l14"), ("zoo:FOLDER", "zoo:FOLDER")])
def test_the_first_line_names_the_network_that_was_asked_for(given: str, named: str) -> None:
    assert network(OmegaConf.create({"model": {"name": given}}), "clip_l14") == named
