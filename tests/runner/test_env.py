"""The machine a run is on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fna import machine
from fna.errors import UserError
from fna.runner import env
from fna.runner.env import choose_device


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")
    for wanted, said in (
        ("mps", "cpu and cuda only"),
        ("meta", "cpu and cuda only"),
        ("cuda:99", "no such GPU"),
        ("abacus", "not a"),
    ):
        with pytest.raises(UserError, match=f"device={wanted}: .*{said}"):
            choose_device(wanted)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Made Up  Xeon(R) @ 2 GHz\nflags\t: a\n", "Made Up Xeon(R) @ 2 GHz"),
        ("processor\t: 0\nHardware\t: Made Up Board\n", "Made Up Board"),
        (
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: Made Up\n\ncpu family\t: 27\nmodel\t\t: 3\n",
            "Made Up, family 26, model 2",  # virtual machines of two generations both say "AMD EPYC"
        ),
    ],
)  # fmt: skip
def test_the_processor_is_named(text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert machine.processor() == name


def test_a_processor_that_is_not_named_has_a_family_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "system", lambda: "Else")
    assert machine.processor() == machine.platform.machine()


def test_threads_wait_briefly_unless_somebody_said_how() -> None:
    """libgomp's default has them spin for milliseconds, which on a busy machine is taken from whom they wait for."""
    for given in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}):
        environment = dict(given)
        env.wait_briefly(environment)
        assert environment == (given or {"GOMP_SPINCOUNT": env.SPINS})


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func.name())
        return func(*args, **kwargs or {})


@torch.no_grad()
def test_stock_attention_of_torch_goes_by_fused_attention_on_a_cpu_where_its_fast_path_makes_all_weights() -> None:
    """torch 2.15 (`torch.nn.MultiheadAttention`, "fast path"): 1.3 times the time in float32 at 1,025 tokens, 2.4 in bfloat16."""
    attention, tokens = torch.nn.MultiheadAttention(32, 2, batch_first=True).eval(), torch.randn(1, 9, 32)
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        for device, fast in (("cuda", True), ("cpu", False)):
            env.fuse_stock_attention(device)
            with Operators() as seen:
                attention(tokens, tokens, tokens, need_weights=False)
            assert ("aten::_native_multi_head_attention" in seen.names) == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
