"""Graphs taken inside the with block (trace, export, ONNX): the changed model, for any images, or one line that says what would."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import fna

pytestmark = pytest.mark.filterwarnings("ignore")


def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=3, embed_dim=64, num_heads=2, img_size=96, num_classes=10).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 96, 96, generator=torch.Generator().manual_seed(seed))


METHODS = [
    {"attn": "exact", "landmarks": 64},
    {"attn": "fna"},
    {"attn": "fna", "sampler": "random"},
    {"attn": "fna", "sampler": "uniform"},
    {"attn": "fna", "landmarks": 0.3, "resample_every": 2},
    {"attn": "fna", "inverse": "exact"},
    {"attn": "nystromformer"},
    {"attn": "fna_local"},
    {"attn": "fna", "mask": "massive"},
]


@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_trace_is_the_eager_model(options: dict) -> None:
    model = vit()
    with torch.no_grad(), fna.swap(model, layers="all", **{"landmarks": 8, **options}):
        traced = torch.jit.trace(model, images(1), check_trace=False)
        for x in (images(1), images(1, seed=1), images(3, seed=2)):
            torch.testing.assert_close(traced(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", ["both", "artifact", "found"])
def test_a_trace_that_would_keep_the_examples_tokens_is_refused(mask: str) -> None:
    with torch.no_grad(), fna.swap(model := vit(), layers="all", landmarks=8, mask=mask):
        with pytest.raises(fna.UserError, match=r"torch\.jit\.trace cannot record") as refusal:
            torch.jit.trace(model, images(1), check_trace=False)
        assert "\n" not in str(refusal.value)
        assert model(images(2)).shape == (2, 10)


@pytest.mark.parametrize("options", METHODS[:4], ids=lambda options: "-".join(map(str, options.values())))
def test_an_export_is_the_eager_model(options: dict) -> None:
    model = vit()
    with torch.no_grad(), fna.swap(model, layers="all", **{"landmarks": 8, **options}):
        exported = torch.export.export(model, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        for x in (images(2, seed=1), images(5, seed=2)):
            torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-4)


def test_symbolic_trace_is_refused_with_the_way_round() -> None:
    """It would leave out the hooks, and draw landmarks anew in each block."""
    with fna.swap(model := vit(), layers="all"), pytest.raises(fna.UserError, match=r"use torch\.export"):
        torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("options", METHODS[:4], ids=lambda options: "-".join(map(str, options.values())))
def test_onnx_has_plain_operators_only(options: dict, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = vit(), images(3, seed=1)
    with torch.no_grad(), fna.swap(model, layers="all", **{"landmarks": 8, **options}):
        torch.onnx.export(model, (images(2),), tmp_path / "m.onnx", dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(out), model(x), atol=1e-4, rtol=1e-3)


def test_the_old_onnx_exporter_is_refused_with_the_way_round(tmp_path: Path) -> None:
    with torch.no_grad(), fna.swap(model := vit(), layers="all", landmarks=8):
        if not torch.onnx.is_in_onnx_export():
            with pytest.raises((fna.UserError, ModuleNotFoundError), match=r"leave dynamo at True|onnx"):
                torch.onnx.export(model, (images(1),), tmp_path / "m.onnx", dynamo=False)
