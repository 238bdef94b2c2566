"""Checkpoints: what is read, what is refused and in which words, and what the digest depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fna.errors import UserError
from fna.models import weights


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "n": torch.tensor(3)}


def test_digest_is_of_content_alone(state: dict[str, torch.Tensor]) -> None:
    same = {name: state[name].clone() for name in reversed(list(state))}
    same["b"] = torch.cat([same["b"], same["b"]], dim=1)[:, :3]  # same values, other strides
    assert weights.digest(same) == weights.digest(state)
    for other in (
        {**state, "b": state["b"].reshape(3, 2)},
        {**state, "b": state["b"].double()},
        {**state, "b": state["b"] + 1},
        {"c" if name == "b" else name: tensor for name, tensor in state.items()},
    ):
        assert weights.digest(other) != weights.digest(state)


def test_digest_of_a_known_tensor() -> None:
    content = b"w torch.float32 (2,)\n" + bytes.fromhex("0000803f 00000040")
    assert weights.digest({"w": torch.tensor([1.0, 2.0])}) == hashlib.sha256(content).hexdigest()


def test_reads_safetensors_and_torch_files_and_unwraps(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "b.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "c.bin")
    digests = {weights.digest(weights.read(tmp_path / name)) for name in ("a.safetensors", "a.pt", "b.pth", "c.bin")}
    assert digests == {weights.digest(state)}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_truncated_file_is_named(name: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    for size in (0, 10, path.stat().st_size - 5):
        path.write_bytes(path.read_bytes()[:size] if size else b"")
        with pytest.raises(UserError, match=rf"{name}.*truncated") as refused:
            weights.read(path)
        assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_file_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such checkpoint.*model\.checkpoint"):
        weights.read(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("root:x:0:0:root:/root:/bin/sh\n")
    with pytest.raises(UserError, match=r"text\.pt: cannot be read as a checkpoint"):
        weights.read(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"list\.pt: holds list"):
        weights.read(tmp_path / "list.pt")


class _Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code of a stranger ran",)


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": _Dangerous()}, tmp_path / "evil.pt")
    with pytest.raises(UserError):
        weights.read(tmp_path / "evil.pt")
    assert "stranger" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.zeros(2, 4)}, r"weight is \[2, 4\], expected \[2, 3\]"),
        ({"weight": None}, r"1 of 2 tensors are missing \(first: weight\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int8)}, r"weight holds whole numbers \(int8\), quantised weights"),
        ({"bias": torch.zeros(2, dtype=torch.int64)}, r"bias holds whole numbers \(int64\), quantised weights"),
        ({"weight": None, "l.qweight": torch.zeros(2)}, r"it holds quantised weights \(first: l\.qweight\)"),
        ({"extra": torch.zeros(1)}, r"1 of its tensors have no place there \(first: extra\)"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, torch.Tensor | None], words: str) -> None:
    model = nn.Linear(3, 2)
    changed = {**model.state_dict(), **change}
    with pytest.raises(UserError, match=rf"file\.pt: does not fit a layer: {words}"):
        weights.fit(model, {name: tensor for name, tensor in changed.items() if tensor is not None}, "file.pt", "a layer")


def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    weights.check_file(path, right)
    path.write_bytes(b"Weights")
    with pytest.raises(UserError, match=f"not {right}"):
        weights.check_file(path, right)


def test_without_a_network_nothing_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, hf_hub_download

    monkeypatch.setattr(weights, "_hub_answers", lambda endpoint: False)
    before = constants.HF_HUB_OFFLINE
    with (
        pytest.raises(UserError, match=r"^some weights: .*hub cannot be reached.*model\.checkpoint=PATH"),
        weights.downloading("some weights"),
    ):
        hf_hub_download("fna-no-such-owner/no-such-model", "model.safetensors")
    assert before == constants.HF_HUB_OFFLINE


def test_seeded_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with weights.seeded(1):
        drawn = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with weights.seeded(1):
        assert torch.equal(torch.rand(3), drawn)
