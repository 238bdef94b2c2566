"""fna as others have it: from a wheel, in another folder, and beside no more than torch, hydra, omegaconf and safetensors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {".py", ".pyc"}  # of conf/ and experiments/: they hold no code

# What `pip install --no-deps fna` has: torch, hydra-core, omegaconf and safetensors, with what these require.
LEAN = """
import sys
from importlib.machinery import PathFinder

THERE = {"torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec",
         "filelock", "hydra", "omegaconf", "antlr4", "yaml", "_yaml", "packaging", "safetensors", "fna"}

class Lean(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top in THERE or top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        return super().find_spec(name, path, target) if own else None

sys.meta_path = [Lean if finder is PathFinder else finder for finder in sys.meta_path]
"""
LIBRARY = """
import torch, fna
from fna.configs import choices
from fna.options import follows

q = torch.ones(1, 2, 40, 8)
for name in choices("attn"):
    counts = {"landmarks": 8} if follows("attn", name, "landmarks") else {}
    assert fna.attention(q, q, q, name, **counts).shape == q.shape
assert fna.sample_landmarks(torch.rand(2, 40, 8), 5).shape == (2, 5)
fna.swap(torch.nn.Linear(2, 2))
"""
COMMAND = "from fna.runner.cli import main; sys.argv[1:] = [{}]; main()"


def python(code: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in another folder than the checkout."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=200)


def test_the_library_needs_torch_hydra_omegaconf_and_safetensors_only(tmp_path: Path) -> None:
    done = python(LEAN + LIBRARY, tmp_path)
    assert "Linear holds no vision transformer that fna knows" in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.slow
def test_swap_takes_nothing_but_the_models_own_library(tmp_path: Path) -> None:
    """With a timm model open_clip, transformers, rich and the like are no more looked for than where they are not installed."""
    model = "import timm, sys; model = timm.create_model('vit_tiny_patch16_224', num_classes=0).eval(); had = set(sys.modules)"
    use = "with torch.inference_mode(), fna.swap(model, 'fna', landmarks=8, mask='both'): model(torch.rand(1, 3, 224, 224))"
    more = "print({name.partition('.')[0] for name in set(sys.modules) - had} - THERE - set(sys.stdlib_module_names))"
    done = python(f"{model}\n{LEAN}\nimport torch, fna\n{use}\n{more}", tmp_path)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("attn=fma", "attn=fma: no such attn; did you mean fna?"),
        ("attn=fna", "needs numpy, which is not installed here;"),
    ],
)
def test_what_is_not_installed_is_said_in_one_line(word: str, said: str, tmp_path: Path) -> None:
    done = python(LEAN + COMMAND.format(repr(word)), tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_in_a_lean_install_ends_in_one_line(tmp_path: Path) -> None:
    done = python(f"{LEAN}\nfrom fna.report.__main__ import main; sys.exit(main(['.']))", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: python -m fna.report needs ")
    assert done.stderr.rstrip().endswith("which is not installed here; install it, or fna without --no-deps.")
    assert len(done.stderr.splitlines()) == 1


def test_conf_is_found_where_links_are_not_to_be_had(tmp_path: Path) -> None:
    """A checkout without symbolic links has a small file in place of fna/conf."""
    (tmp_path / "fna").mkdir()
    for name in ("__init__", "configs", "errors", "options", "values"):
        shutil.copy(ROOT / "fna" / f"{name}.py", tmp_path / "fna")
    (tmp_path / "fna" / "conf").write_text("../conf")
    (tmp_path / "conf" / "attn").mkdir(parents=True)
    (tmp_path / "conf" / "attn" / "mine.yaml").touch()
    done = python("from fna.configs import choices; print([*choices('attn')])", tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == "['mine']", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built without a network from a copy of the tree, so that no build folder of earlier days gets into it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("fna", "conf", "experiments"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(copy / "dist"), str(copy)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into: before everything else on the path, with the dependencies of this Python."""
    target = tmp_path_factory.mktemp("site")
    words = ["install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_the_wheel_holds_every_file(wheel: Path) -> None:
    """Configs, figures of others, embedded weights, class lists, templates and C++ sources too; nothing beside fna."""
    own = {str(file.relative_to(ROOT)) for file in (ROOT / "fna").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    linked = {f"fna/{file.relative_to(ROOT)}" for name in ("conf", "experiments") for file in (ROOT / name).rglob("*.*")}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert own | linked == {name for name in held if not name.startswith("fna-")}


@pytest.mark.slow
def test_the_installed_command_compares(installed: Path, tmp_path: Path) -> None:
    """``fna`` in another folder: the run of the README, whose outputs lie where it was called."""
    words = ["model=clip", "attn=fna", "landmarks=64", "limit=32", "timing.enabled=false", "gallery=0"]
    words += ["expected=experiments/shapes_segmentation/expected.csv"]
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([installed / "bin" / "fna", *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "outputs" / "runs").glob("*/result.json")
    page = result.with_name("report.html").read_text(encoding="utf-8")
    assert "<pre>fna model=clip attn=fna" in page
    assert str(ROOT) not in result.read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_m_fna_is_the_same_command(installed: Path, tmp_path: Path) -> None:
    for call in ([installed / "bin" / "fna"], [sys.executable, "-m", "fna"]):
        env = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run([*call, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        name = "fna" if len(call) == 1 else "python -m fna"
        assert f"\n  {name} model=clip attn=fna landmarks=64\n" in done.stdout, done.stderr
        done = subprocess.run([*call, "dataset=imagenet"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "outputs" / "rows").exists()


@pytest.mark.slow
def test_the_installed_library(installed: Path, tmp_path: Path) -> None:
    code = """
import timm, torch, fna
assert fna.__file__.startswith(FOLDER), fna.__file__
model, images = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval(), torch.rand(1, 3, 224, 224)
with torch.inference_mode():
    before = model(images)
    with fna.swap(model, "fna", landmarks=16):
        assert not torch.equal(model(images), before)
    assert torch.equal(model(images), before)
q = torch.rand(1, 2, 50, 8)
assert fna.attention(q, q, q, "nystromformer", landmarks=5).shape == q.shape
help(fna)
"""
    done = python(f"FOLDER = {str(installed)!r}\n{code}", tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    _, _, functions = done.stdout.partition("FUNCTIONS")
    for name in ("attention(q:", "sample_landmarks(x:", "swap(model:"):
        assert f"\n    {name}" in functions
    assert "[batch, heads, tokens, head_dim]" in functions


@pytest.mark.slow
def test_mypy_sees_the_types_of_an_installed_fna(installed: Path, tmp_path: Path) -> None:
    """py.typed: a wrong argument is found, and what comes back is known. What is not of fna is left out, to be quick."""
    (tmp_path / "consumer.py").write_text("import fna\nreveal_type(fna.swap(None))\nfna.attention(1, 2, 3, scale='big')\n")
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\n[mypy-fna.*]\nfollow_imports = silent\n")
    words = ["--no-incremental", "consumer.py"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200
    )
    assert 'Revealed type is "fna.surgery.swap.Swap"' in done.stdout, done.stdout
    assert 'Argument "scale" to "attention" has incompatible type "str"' in done.stdout
