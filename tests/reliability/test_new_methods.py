"""A new method whose YAML or module is broken, in FNA_CONF_DIR as the README has it: one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.configs import build_attention
from fna.errors import UserError
from tests.reliability.lines import asked

METHOD = """
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Mine:
    weight: float = 1.0
    file: Path | None = None
    def __call__(self, q, k, v, site):
        return v

@dataclass
class Sampler:
    def __call__(self, q, k, v, site, count, keep, drop):
        return None

def plain(weight: int = 3):
    return Mine(weight)

number = 3

class Divides:
    def __init__(self):
        1 / 0
    def __call__(self, q, k, v, site):
        return v

class Leaves(Divides):
    def __init__(self):
        raise SystemExit(0)

@dataclass
class Nothing:
    def __call__(self, q, k, v, site):
        return None

@dataclass
class Pair:
    def __call__(self, q, k, v, site):
        return v, v

@dataclass
class Double:
    def __call__(self, q, k, v, site):
        return v.double()

@dataclass
class Buggy:
    def __call__(self, q, k, v, site):
        one, two = range(3)


def attends(q, k, v, site):
    return q
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "attn").mkdir()
    (tmp_path / "mine_all_my_own.py").write_text(METHOD)
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("", "has no _target_"),
        ("# a comment\n", "has no _target_"),
        ("weight: 3\n", "has no _target_"),
        ("_target_: null\n", "has no _target_"),
        ("- a\n- b\n", "is a list"),
        ("just words\n", "has no _target_"),
        ("_target_: [\n", "line 2: "),
        ("a: b: c\n", "line 1: mapping values are not allowed here"),
        ("\tx: 1\n", "line 1: "),
        ("_target_: mine_all_my_own.Other\n", "cannot be imported (module 'mine_all_my_own' has no attribute 'Other')"),
        ("_target_: not_there_at_all.Mine\n", "No module named 'not_there_at_all'); its folder has to be on PYTHONPATH"),
        ("_target_: broken_syntax.Mine\n", "broken_syntax.py line 1: "),
        ("_target_: broken_import.Mine\n", "broken_import.py line 2: ZeroDivisionError: division by zero"),
        ("_target_: os.getcwd\n", "os.getcwd: makes no attn, it has no __call__"),
        ("_target_: mine_all_my_own.Sampler\n", "makes no attn, it has no __call__(self, q, k, v, site)"),
        ("_target_: mine_all_my_own.number\n", "is no class or function that could be called"),
        ("_target_: mine_all_my_own.Mine\nwidth: 3\n", "attn.width: mine_all_my_own.Mine has no such key; it has weight, file."),
        ("_target_: mine_all_my_own.Mine\nweight: wide\n", "attn.weight=wide: give a number."),
        ("_target_: mine_all_my_own.plain\nweight: 1.5\n", "attn.weight=1.5: give a whole number."),
        ("_target_: 3\n", "_target_=3 is no name; give that of the class to build, package.Class."),
        ("_target_: [a]\n", "_target_=[a] is no name"),
        ("_target_: ${oc.env:NOPE}\n", "_target_=${oc.env:NOPE} is no name"),
        ("_target_: mine_all_my_own.Mine\n_args_: [1]\n", "_args_ is Hydra's own business; leave it out."),
        ("_target_: mine_all_my_own.Mine\n_mode_: x\n", "_mode_ is Hydra's own business"),
        ("_target_: mine_all_my_own.Mine\n_partial_: true\n", "_partial_ is Hydra's own business"),
        ("_target_: mine_all_my_own.Mine\nweight: ${nothing}\n", "the config has no key nothing; give a value."),
        ("_target_: mine_all_my_own.Mine\nweight: ${attn.weight}\n", "leads back to itself"),
        ("_target_: mine_all_my_own.Mine\nnull: 3\n", "Incompatible key type 'NoneType'; it has to be YAML"),
        ("_target_: mine_all_my_own.Mine\n3: 3\n", "3 is no name of a key"),
        ("# @package nope\n_target_: mine_all_my_own.Mine\n", "'# @package nope' puts its keys where nothing reads them"),
        ("# @package _global_\n_target_: mine_all_my_own.Mine\n", "leave that line out"),
        ("3\n", "Invalid loaded object type: int; it has to be YAML"),
        ("a: &x [*x]\n", "it has to be YAML"),
        ("defaults:\n  - mine\n", "its defaults lead back to it (mine -> mine); take it out of the list."),
        ("defaults: fna\n", "defaults is no list of names"),
        ("defaults: [null]\n", "defaults is no list of names"),
        ("_target_: mine_all_my_own.Divides\n", "line 24: ZeroDivisionError: division by zero); mend that."),
        ("_target_: mine_all_my_own.Leaves\n", "ends the program"),
        ("_target_: sys.exit\n", "ends the program"),
        ("_target_: torch.nn.Softmax\n", "makes no attn, it has no __call__(self, q, k, v, site)"),
        ("_target_: mine_all_my_own.attends\n", "attends: is a function on q; name a class that has it as __call__;"),
        ("_target_: builtins.dict\n", "makes no attn, it has no __call__"),
        ("defaults: [_self_, _self_]\n", "defaults: names _self_ twice; keep one."),
        ("defaults:\n  - sampler: fps\n", "is chosen already; write - override /sampler@_global_.sampler: NAME"),
        ("defaults:\n  - override /sampler: fps\n", "write - override /sampler@_global_.sampler: NAME"),
        ("defaults:\n  - override /sampel: fps\n", "no such group; did you mean sampler? there is attn, dataset"),
        ("defaults:\n  - nowhere\n_target_: mine_all_my_own.Mine\n", "attn=nowhere: no such attn"),
    ],
)  # fmt: skip
def test_one_line_with_the_file(folder: Path, yaml: str, said: str) -> None:
    (folder / "broken_syntax.py").write_text("def (:\n")
    (folder / "broken_import.py").write_text("x = 1\nx / 0\n")
    file = folder / "attn" / "mine.yaml"
    file.write_text(yaml)
    found = asked(["attn=mine"])
    assert found is not None, "was taken"
    assert said in found
    assert str(file) in found or "attn.weight=" in found or "attn=nowhere" in found  # a value is named by its key


@pytest.mark.parametrize(
    ("name", "said"), [("Nothing", "Nothing returned NoneType, no tensor"), ("Pair", "Pair returned tuple, no tensor"),
                       ("Double", "Double returned torch.float64 for queries of torch.float32")])  # fmt: skip
def test_a_method_that_returns_no_attention_is_told_before_weights_are_loaded(folder: Path, name: str, said: str) -> None:
    (folder / "attn" / "mine.yaml").write_text(f"_target_: mine_all_my_own.{name}\n")
    assert said in str(asked(["attn=mine"]))


def test_a_bug_in_a_method_stays_one_and_names_it(folder: Path) -> None:
    (folder / "attn" / "mine.yaml").write_text("_target_: mine_all_my_own.Buggy\n")
    with pytest.raises(ValueError, match="too many values") as raised:
        asked(["attn=mine"])
    where = ["raised by mine_all_my_own.Buggy in block 4", "on a tiny input, before any weights are loaded"]
    assert raised.value.__notes__ == where


def test_the_python_api_names_the_file_too(folder: Path) -> None:
    file = folder / "attn" / "mine.yaml"
    for yaml in ("just words\n", "", "3\n", "_target_: mine_all_my_own.Mine\nweight: ${nothing}\n", "defaults:\n  - mine\n"):
        file.write_text(yaml)
        with pytest.raises(UserError) as refused:
            build_attention("mine")
        assert str(refused.value).startswith(f"{file}: ")
        assert "\n" not in str(refused.value)


def test_a_folder_or_a_link_called_as_an_option_is_none(folder: Path) -> None:
    """Nor does it harm the refusal of another one, which looks for the file that names a target."""
    (folder / "attn" / "a.yaml").mkdir()
    (folder / "attn" / "b.yaml").symlink_to(folder / "nowhere")
    (folder / "attn" / "mine.yaml").write_text("_target_: mine_all_my_own.Other\n")
    assert "mine.yaml: mine_all_my_own.Other: cannot be imported" in str(asked(["attn=mine"]))
    assert str(asked(["attn=a"])).startswith("attn=a: no such attn; there is ")


@pytest.mark.parametrize("name", ["123", "true", "1e3", "null"])
def test_a_file_whose_name_hydra_reads_as_a_value_is_told_how_to_mend(folder: Path, name: str) -> None:
    file = folder / "attn" / f"{name}.yaml"
    file.write_text("_target_: mine_all_my_own.Mine\n")
    if name != "1e3":  # which Hydra reads as 1000.0: there is none of that name
        assert (
            asked([f"attn={name}"])
            == f"attn={name}: Hydra reads no name there but a value; rename {file}, attn_{name}.yaml for one."
        )
    assert asked([f"attn='{name}'"]) is None


def test_a_data_set_whose_file_is_broken_is_named(folder: Path) -> None:
    """Also where another word asks for the task that it would choose."""
    (folder / "dataset").mkdir()
    for yaml in ("a: b: c\n", "defaults: [mine]\n", "3\n"):
        (folder / "dataset" / "mine.yaml").write_text(yaml)
        assert str(asked(["dataset=mine", "task.prompt={}{}"])).startswith(f"{folder / 'dataset' / 'mine.yaml'}: ")


def test_an_experiment_whose_keys_would_go_nowhere_is_refused(folder: Path) -> None:
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text("# one of mine\nseed: 3\n")
    assert "begin the file with '# @package _global_'" in str(asked(["experiment=mine"]))


def test_what_the_remedy_says_an_option_can_choose_is_taken(folder: Path) -> None:
    (folder / "attn" / "mine.yaml").write_text(
        "defaults:\n  - fna\n  - _self_\n  - override /sampler@_global_.sampler: random\nsteps: 3\n"
    )
    assert asked(["attn=mine"]) is None


def test_a_path_is_given_to_a_method_as_one(folder: Path) -> None:
    (folder / "attn" / "mine.yaml").write_text("_target_: mine_all_my_own.Mine\nfile: a/b.txt\n")
    assert build_attention("mine").file == Path("a/b.txt")
    assert asked(["attn=mine", "attn.file=null"]) is None
    assert str(asked(["attn=mine", "attn.file=[a]"])) == "attn.file=[a]: give a path or null."


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("attn: exact\n", "attn: exact chooses no option here; write under defaults: - override /attn: NAME"),
        ("dataset: 3\n", "dataset: 3 chooses no option here"),
        ("defaults:\n  - /attn: exact\n", "defaults: /attn: is chosen already; write - override /attn: NAME"),
        ("defaults:\n  - override /atn: exact\n", "no such group; did you mean attn?"),
        ("landmark: 3\n", "landmark: no such knob; did you mean landmarks?"),
        ("landmarks: x\n", "landmarks=x: give a count from 1 to 1000000"),
        ("seed: null\n", "seed=null: give a whole number"),
        ("versus: exact\n", "versus=exact: give a list of contenders"),
        ("timing: false\n", "timing: false: set timing.enabled or timing.rounds"),
        ("timing:\n  round: 3\n", "timing.round: no such knob; did you mean timing.rounds?"),
        ("hydra:\n  sweeper:\n    params:\n      landmark: 8,16\n", "landmark: no such knob; did you mean landmarks?"),
    ],
)  # fmt: skip
def test_an_experiment_that_no_run_could_follow_is_refused_with_its_file(folder: Path, yaml: str, said: str) -> None:
    (folder / "experiment").mkdir()
    file = folder / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\n{yaml}")
    found = str(asked(["experiment=mine"]))
    assert found.startswith(f"{file}: ")
    assert said in found


def test_an_experiment_with_values_that_follow_others_is_taken(folder: Path) -> None:
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /attn: low_rank\nlandmarks: 8\nbatch_size: ${landmarks}\n"
    )
    assert asked(["experiment=mine"]) is None


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "attn" / "mine.yaml").write_bytes(b"\xff\xfe\x00x: 1")
    assert "mine.yaml" in str(asked(["attn=mine"]))


@pytest.mark.parametrize("target", ["Mine", "plain"])
def test_a_whole_one_is_taken_with_its_annotations(folder: Path, target: str) -> None:
    (folder / "attn" / "mine.yaml").write_text(f"_target_: mine_all_my_own.{target}\nweight: 2\n")
    assert asked(["attn=mine", "attn.weight=4"]) is None
    assert asked(["attn=mine", "attn.weight=no"]) is not None
    assert "counts no landmarks" in str(asked(["attn=mine", "landmarks=8"]))  # its YAML does not say ${landmarks}


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FNA_CONF_DIR", str(tmp_path / "gone"))
    assert asked([]) == f"FNA_CONF_DIR={tmp_path / 'gone'}: no such folder; name one laid out like conf/, or unset it."
    with pytest.raises(UserError, match="no such folder"):
        build_attention("fna")


def test_a_folder_that_is_a_group_itself_is_told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("FNA_CONF_DIR", str(folder / "attn"))
    assert asked(["attn=mine"]) == f"FNA_CONF_DIR={folder / 'attn'}: has no folder such as attn/; name one laid out like conf/."


def test_a_folder_with_signs_of_hydras_in_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = tmp_path / "my conf, [the] 2nd (ü)"
    (odd / "attn").mkdir(parents=True)
    (odd / "attn" / "mine.yaml").write_text("_target_: fna.ops.exact.Exact\n")
    monkeypatch.setenv("FNA_CONF_DIR", str(odd))
    assert asked(["attn=mine"]) is None
