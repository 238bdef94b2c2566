"""Promises of the house about itself: who imports whom, what loads torch, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "fna").rglob("*.py"))
MAX_LINES = 400
RUNNER_LINES = 200

# folder of fna -> folders of fna that it may import ("" stands for the modules that lie in fna/ itself)
ARROWS = {
    "ops": set(),
    "masking": {"ops"},
    "reduce": {"ops", "surgery"},
    "kv": {"ops"},
    "surgery": {"ops", "kv"},
    "models": {"ops", "surgery"},
    "data": set(),
    "metrics": set(),
    "judge": {"data", "metrics"},
    "tasks": {"metrics", "judge", "data", "models", "ops", "surgery", "masking"},
    "report": set(),
    "runner": {"tasks", "metrics", "data", "models", "surgery", "masking", "report", "ops"},
    "": {"ops", "surgery", "masking", "runner"},
}
# modules in fna/ itself that any folder may import: they import no folder in turn
GROUND = {
    "fna",
    "fna.errors",
    "fna.commands",
    "fna.configs",
    "fna.options",
    "fna.schema",
    "fna.folders",
    "fna.interrupts",
    "fna.machine",
    "fna.mistaken",
    "fna.networks",
    "fna.versions",
    "fna.records",
    "fna.streams",
    "fna.cells",
    "fna.spelling",
    "fna.constructors",
    "fna.values",
    "fna.progress",
}
# the stages of a run, first to last: each is made of earlier ones and knows no later one
STAGES = ("versus", "asked", "loaded", "settled", "outcomes", "compared", "result", "shown", "run", "job", "cli")
# third-party packages that live behind one door
DOORS = {
    "hydra": ("fna/runner/", "fna/schema.py", "fna/configs.py", "run.py"),
    "wandb": ("fna/report/wandb.py",),
    "httpx": ("fna/judge/",),
    "open_clip": ("fna/models/", "fna/surgery/"),
    "timm": ("fna/models/", "fna/surgery/"),
    "transformers": ("fna/models/", "fna/surgery/"),
}


def imports(file: Path) -> list[tuple[str, bool]]:
    """(module, under TYPE_CHECKING) for every import statement of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in typing_only))
    return found


def folder_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / "fna" / parts[1]).is_dir() else ""


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_arrows(file: Path) -> None:
    own = folder_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
    for module, _ in imports(file):
        if not module.startswith("fna") or module in GROUND:
            continue
        target = folder_of(module)
        assert target == own or target in ARROWS[own], f"{file.relative_to(ROOT)} imports {module}: fna/{own or '.'} may not"


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package below ``root`` that it imports when it runs, inside functions included."""
    files = {".".join(file.relative_to(root.parent).with_suffix("").parts): file for file in root.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        own = name.removesuffix(".__init__")
        found[own] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                # "from package import module" imports the module, "from module import name" the module before the name
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found[own] |= {target if target in files else node.module for target in names}
            elif isinstance(node, ast.Import):
                found[own] |= {alias.name for alias in node.names}
        found[own] -= {module for module, typing_only in imports(file) if typing_only}
    return {name: {target for target in targets if target in found and target != name} for name, targets in found.items()}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def arrows_back(edges: dict[str, set[str]], stages: tuple[str, ...] = STAGES) -> list[str]:
    """Stages of a run that import a later one."""
    place = {f"fna.runner.{stage}": number for number, stage in enumerate(stages)}
    return [f"{a} -> {b}" for a, targets in edges.items() for b in targets if place.get(a, -1) >= 0 and place.get(b, -1) > place[a]]


def test_no_file_imports_one_that_imports_it() -> None:
    assert circle(graph(ROOT / "fna")) == []


def test_no_stage_of_a_run_knows_a_later_one() -> None:
    edges = graph(ROOT / "fna")
    assert {f"fna.runner.{stage}" for stage in STAGES} <= set(edges)
    assert arrows_back(edges) == []


def test_a_planted_circle_and_a_planted_arrow_back_are_seen(tmp_path: Path) -> None:
    folder = tmp_path / "fna" / "runner"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (tmp_path / "fna" / "__init__.py").touch()
    (folder / "asked.py").write_text("def ask():\n    from fna.runner import loaded\n")
    (folder / "loaded.py").write_text("from fna.runner.asked import ask\n")
    edges = graph(tmp_path / "fna")
    assert set(circle(edges)) == {"fna.runner.asked", "fna.runner.loaded"}
    assert arrows_back(edges) == ["fna.runner.asked -> fna.runner.loaded"]


def test_the_runner_names_no_task_and_no_mask() -> None:
    """What differs between tasks, masks and methods is theirs to say."""
    for file in (ROOT / "fna" / "runner").glob("*.py"):
        named = {
            node.module
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("fna.masking", "fna.tasks"))
        }
        allowed = {
            "fna.tasks.base",
            "fna.tasks.cache",
            "fna.tasks.calibration",
            "fna.tasks.exhibits",
            "fna.tasks.images",
            "fna.tasks.own",
        }
        assert named <= allowed, f"{file.name} names {named - allowed}"
        assert len(file.read_text(encoding="utf-8").splitlines()) <= RUNNER_LINES, file.name


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_doors(file: Path) -> None:
    name = str(file.relative_to(ROOT))
    for module, typing_only in imports(file):
        doors = DOORS.get(module.split(".")[0])
        if doors and not typing_only:
            assert name.startswith(doors), f"{name} imports {module}; only {', '.join(doors)} may"


def test_ops_and_policies_import_torch_and_nothing_else() -> None:
    allowed = {"torch", "torch_quickfps", "triton", "sageattention", "fna", *sys.stdlib_module_names}
    for file in [*(ROOT / "fna" / "ops").rglob("*.py"), *(ROOT / "fna" / "kv").rglob("*.py")]:
        outside = {module for module, _ in imports(file) if module.split(".")[0] not in allowed}
        assert not outside, f"{file.relative_to(ROOT)} imports {sorted(outside)}"


@pytest.mark.parametrize("file", [*SOURCES, ROOT / "run.py"], ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


LIGHT = ("import fna", "import fna.schema, fna.configs", "import fna.runner.cli", "import fna.report.__main__")


@pytest.mark.parametrize("code", LIGHT)
def test_light_imports_do_not_load_torch(code: str) -> None:
    check = f"{code}\nimport sys\nassert 'torch' not in sys.modules, 'torch was loaded'"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    import fna

    assert all(hasattr(fna, name) for name in fna.__all__)
    with pytest.raises(AttributeError, match="it has"):
        fna.nonsense  # noqa: B018


@pytest.mark.parametrize("first", ["pass", "fna.swap", "import fna.ops.nystrom", "fna.attention(q, q, q, 'exact')"])
def test_attention_is_a_function_whatever_was_used_before(first: str) -> None:
    """A subpackage has the same name, and importing it takes the name over."""
    code = f"import torch, fna; q = torch.zeros(1, 1, 4, 8); {first}; print(fna.attention(q, q, q, 'exact').shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "[1, 1, 4, 8]" in done.stdout, done.stderr
