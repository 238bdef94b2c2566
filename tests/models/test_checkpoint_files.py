"""Checkpoint files: every container and prefix, what lies beside the weights, and one line for what is no checkpoint."""

from __future__ import annotations

import argparse
import json
import pathlib
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fna.errors import UserError
from fna.models.checkpoint_files import load, tensor_names
from fna.models.checkpoint_paths import weights_file
from fna.models.checkpoints import unpack

NAMES = {"blocks.0.weight": (2, 3), "blocks.1.weight": (2, 3), "head.weight": (5, 2), "head.bias": (5,)}


def state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in NAMES.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.model.",
    "model.module._orig_mod.",
    "module.module.",
    "net.",
    "backbone.",
    "encoder.",
    "model.encoder.",
    "student.backbone.",
    "_fsdp_wrapped_module.",
    "lit.whatever.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_any_order_of_prefixes_comes_off_in_both_formats(prefix: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    named = under(prefix, state())
    save_file(named, path) if suffix == ".safetensors" else torch.save(named, path)
    assert same(unpack(load(path), NAMES, path).state, state())


CONTAINERS = ["state_dict", "model", "model_state_dict", "ema", "teacher", "net", "weights", "params", "state", "module"]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_the_usual_containers(container: str, prefix: str, tmp_path: Path) -> None:
    content = {container: under(prefix, state()), "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    torch.save(content, tmp_path / "c.pt")
    found = unpack(load(tmp_path / "c.pt"), NAMES, "c.pt")
    assert same(found.state, state())
    assert found.note("c.pt") == ""


def test_containers_in_containers_and_wrappers_inside_of_names() -> None:
    inner = {name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in state().items()}
    assert same(unpack({"checkpoint": {"model": {"state_dict": under("module.", inner)}}}, NAMES, "c.pt").state, state())


def test_a_container_that_leads_back_to_itself_is_gone_through_once() -> None:
    content: dict[str, Any] = {"model": state(), "epoch": 3}
    content["last"] = content
    assert same(unpack(content, NAMES, "c.pt").state, state())


@pytest.mark.parametrize(
    ("loaded", "taken", "other"),
    [
        ({"state_dict": 0, "state_dict_ema": 1}, "state_dict", "state_dict_ema"),
        ({"model": 0, "ema": 1}, "model", "ema"),
        ({"model": 0, "model_ema": 1}, "model", "model_ema"),
        ({"student": 1, "teacher": 0}, "teacher", "student"),
    ],
)
def test_further_sets_of_weights_are_named_and_can_be_taken(loaded: dict[str, int], taken: str, other: str) -> None:
    """Trained weights before averaged ones; of a pair, the teacher, which is what papers evaluate."""
    content = {name: state(seed) for name, seed in loaded.items()}
    found = unpack(content, NAMES, "c.pt")
    assert same(found.state, state(0))
    note = found.note("c.pt")
    assert f"of {taken}" in note
    assert f"model.part={other}" in note
    assert ("averaged" in note) == ("ema" in other)
    again = unpack(content, NAMES, "c.pt", part=other)
    assert same(again.state, state(1))
    with pytest.raises(UserError, match=rf"model\.part=swa: c\.pt holds no such part; it has {taken}, {other}"):
        unpack(content, NAMES, "c.pt", part="swa")


def test_parts_told_apart_by_prefix_alone_as_in_lightning() -> None:
    content = {"state_dict": under("model.", state(0)) | under("model_ema.module.", state(1)) | {"loss.weight": torch.ones(3)}}
    found = unpack(content, NAMES, "c.ckpt")
    assert same(found.state, state(0))
    assert "model.part=state_dict.model_ema" in found.note("c.ckpt")
    assert "loss (1 tensor, not used)" in found.note("c.ckpt")
    assert same(unpack(content, NAMES, "c.ckpt", part="model_ema").state, state(1))


def test_weights_at_the_top_with_averaged_ones_beside() -> None:
    found = unpack(state(0) | {"ema": state(1)}, NAMES, "c.pt")
    assert same(found.state, state(0))
    assert "model.part=ema" in found.note("c.pt")


def test_harmless_objects_beside_the_tensors_are_read_and_named(tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": state(), "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("x"))}
    content |= {"best": np.float64(0.5), "curve": np.arange(3.0)}
    torch.save(content, tmp_path / "c.pt")
    found = unpack(load(tmp_path / "c.pt"), NAMES, "c.pt")
    assert same(found.state, state())
    assert "args (argparse.Namespace)" in found.note("c.pt")


class Config:
    """Somebody's own class."""

    lr = 0.1


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_that_need_code_are_refused_by_name_and_not_as_truncated(zipped: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "cfg": Config()}, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"c\.pt: .*beside its tensors .*Config.*'state_dict'") as refused:
        load(tmp_path / "c.pt")
    assert "truncated" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pickle_of_a_later_protocol_is_refused_as_one_and_in_one_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "w.pt"
    torch.save(OrderedDict(state()), path, pickle_protocol=4)
    with pytest.raises(UserError, match=r"w\.pt: was saved with pickle_protocol=4, .* save it again: torch\.save\("):
        load(path)
    assert not recwarn.list
    torch.save(torch.load(path, weights_only=False), path)  # as it says
    assert same(dict(load(path)), state())


def test_a_whole_model_is_refused_as_one(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"whole pickled model .*torch\.save\(model\.state_dict\(\)"):
        load(tmp_path / "m.pt")


def _html(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html>sign in</html>")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"),
            "git-lfs.*git lfs pull",
        ),
        (_html, "web page"),
        (_zip, r"zip of something else \(notes\.txt\)"),
        (_script, "TorchScript.*state_dict"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(40)), "GGUF"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(40)), "gzip"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5"),
        (lambda path: np.savez(path.open("wb"), a=np.zeros(2)), "numpy arrays"),
        (lambda path: path.write_bytes(bytes(range(256))), "cannot be read as a checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_checkpoint_is_told_as_what_it_is(make: Any, words: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    make(path)
    if words == "empty" or path.stat().st_size:
        with pytest.raises(UserError, match=words) as refused:
            load(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_the_content_decides_the_format_not_the_suffix(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.pt")
    assert same(load(tmp_path / "w.pt"), state())


def test_folders_and_parts_of_an_index(tmp_path: Path) -> None:
    names = list(NAMES)
    for number, part in enumerate((names[:2], names[2:])):
        save_file({name: state()[name] for name in part}, tmp_path / f"model-{number}.safetensors")
    places = {name: f"model-{int(names.index(name) > 1)}.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(load(tmp_path), state())
    assert set(tensor_names(tmp_path) or ()) == set(names)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors: is not there, model\.safetensors\.index\.json names it"):
        load(tmp_path)


@pytest.mark.parametrize("part", [3, None, ["a"], "model.safetensors.index.json", "other.safetensors.index.json"])
def test_an_index_whose_parts_are_no_files_of_tensors(part: Any, tmp_path: Path) -> None:
    """An index that names itself would be followed for ever."""
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(UserError, match=r"no index of weights \(weight_map names .+, no file of tensors\)"):
        load(tmp_path)


def test_parts_of_a_checkpoint_without_their_index_are_no_checkpoint_each(tmp_path: Path) -> None:
    """One of them alone is a third of the model."""
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00003.safetensors").touch()
        said = rf"it holds {number} of 3 parts, but no model\.safetensors\.index\.json; fetch it too"
        with pytest.raises(UserError, match=said):
            weights_file(tmp_path)


def test_folders_that_hold_none_or_several(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint: the folder holds no weights"):
        weights_file(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"inner does"):
        weights_file(tmp_path)
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"2 files of weights \(a\.pt, b\.pt\)"):
        weights_file(tmp_path)
    (tmp_path / "b.pt").unlink()
    assert weights_file(tmp_path).name == "a.pt"


def _odd_states() -> list[tuple[Tensor, str]]:
    return [
        (torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8), "quantised"),
        (torch.ones(2, 3).to_sparse(), "sparse"),
        (torch.ones(2, 3, dtype=torch.complex64), "complex"),
        (torch.ones(2, 3).to(torch.float8_e4m3fn), "quantised"),
        (torch.full((2, 3), float("nan")), "NaN"),
        (torch.empty(2, 3, device="meta"), "without numbers"),
    ]


@pytest.mark.parametrize("case", range(6))
def test_tensors_that_are_no_plain_finite_numbers_are_refused(case: int) -> None:
    tensor, words = _odd_states()[case]
    with pytest.raises(UserError, match=words):
        unpack({**state(), "blocks.0.weight": tensor}, NAMES, "c.pt")


def test_half_precision_and_parameters_are_taken() -> None:
    content = {name: nn.Parameter(tensor.half()) for name, tensor in state().items()}
    assert unpack(content, NAMES, "c.pt").state["head.bias"].dtype == torch.float16


def test_what_holds_no_tensors_is_named() -> None:
    for loaded, words in (([1], "holds list"), ({}, "an empty dict"), ({"a": 1}, "holds dict"), (torch.ones(2), "holds Tensor")):
        with pytest.raises(UserError, match=words):
            unpack(loaded, NAMES, "c.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_named_safetensors_is_read_as_what_it_is(zipped: bool, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.safetensors", _use_new_zipfile_serialization=zipped)
    assert same(load(tmp_path / "w.safetensors"), state())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({name: tensor.numpy() for name, tensor in state().items()}, r"holds numpy arrays.*torch\.from_numpy"),
        ({"model": {"a": np.zeros(2)}}, r"holds numpy arrays.*torch\.from_numpy"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3}, "an optimizer and no weights"),
        ({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]}, "an optimizer and no weights"),
        ({"optimizer_states": [{"state": {}}], "epoch": 3}, "an optimizer and no weights"),
        ({**state(), "head\nweight": torch.ones(1)}, r"a tensor is named 'head\\nweight'"),
    ],
)
def test_what_holds_no_weights_is_told_as_what_it_is(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UserError, match=words) as refused:
        unpack(load(tmp_path / "c.pt"), NAMES, "c.pt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("start", [b"", b"\x80\x02", b"\x80\x05"])
def test_bytes_that_are_no_checkpoint_are_refused_in_our_own_words(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.pt").write_bytes(start + bytes(range(1, 200)))
    with pytest.raises(UserError, match=r"r\.pt: ") as refused:
        load(tmp_path / "r.pt")
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["state_dict", "model", "ema"])
def test_the_remedy_for_objects_names_the_key_that_holds_the_tensors(key: str, zipped: bool, tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(model="vit"), "epoch": 3, key: state(), "cfg": Config()}
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as refused:
        load(tmp_path / "c.pt")
    assert f"torch.load(FILE, weights_only=False)['{key}']" in str(refused.value)


def test_the_remedy_for_objects_beside_tensors_at_the_top_keeps_the_tensors(tmp_path: Path) -> None:
    torch.save({**state(), "cfg": Config()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"\.items\(\) if isinstance\(tensor, torch\.Tensor\)"):
        load(tmp_path / "c.pt")


@pytest.mark.parametrize("address", ["https://host/a/w.pt", "s3://bucket/w.pt", "hf://owner/model"])
def test_an_address_is_to_be_downloaded_and_keeps_its_slashes(address: str) -> None:
    with pytest.raises(UserError, match=rf"^{address}: an address.*download it"):
        weights_file(address)


def test_paths_that_lead_nowhere_say_why(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone.pt")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/abc")
    (tmp_path / "file.pt").touch()
    for name, words in {
        "link.pt": r"a link to .*gone\.pt, which is not there",
        "snapshot": r"model\.safetensors in it is a link to \.\./blobs/abc",
        "file.pt/w.pt": r"file\.pt is a file, not a folder",
        "x" * 300: "no such checkpoint",
    }.items():
        with pytest.raises(UserError, match=words):
            weights_file(tmp_path / name)
    with pytest.raises(UserError, match="write the folder out"):
        weights_file("~/w.pt")
