"""Weights of other libraries, pictures none of which can be read, samplers that fail, speeds of one row on two ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

import fna
from fna.data.base import Dataset, Labelled
from fna.data.loading import Kept, batches
from fna.data.prepared import Cache
from fna.data.reading import Reading
from fna.errors import UserError
from fna.models.checkpoint_files import load
from fna.models.timm import TimmModel
from fna.ops.landmarks import Landmarks
from fna.report import results
from fna.report.day import _key
from fna.report.seeds import merged
from fna.report.sweep import summarise
from fna.runner.failures import line
from fna.tasks.images import first_images
from tests.report.made_up_results import result, write_run

Q = torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", ["Transformer/encoderblock_0", "Transformer/encoderblock", "params/img/Transformer/encoderblock"])
def test_weights_in_jaxs_layout_are_told_the_way_that_works(layer: str, tmp_path: Path) -> None:
    """Made into tensors name by name, none of them fits: JAX has other names, and matrices the other way round."""
    np.savez(tmp_path / "Ti_16.npz", **{f"{layer}/LayerNorm_0/scale": np.ones(2), "cls": np.ones(2)})
    with pytest.raises(UserError, match=r"in JAX's layout.*m\.load_pretrained\(FILE\); torch\.save\(m\.state_dict\(\), NEW\)\."):
        load(tmp_path / "Ti_16.npz")


def test_other_arrays_keep_their_remedy(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **{"head.weight": np.ones(2)})
    with pytest.raises(UserError, match=r"make them tensors: torch\.save\(\{name: torch\.from_numpy"):
        load(tmp_path / "own.npz")


@pytest.mark.parametrize(
    ("name", "start", "what"),
    [
        ("flax_model.msgpack", b"\x81\xa6params\x80", "Flax weights"),
        ("renamed.bin", b"\xde\x00\x11\xa3vit\xde\x00\x10", "Flax weights"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "TensorFlow weights"),
    ],
)
def test_weights_of_another_library_are_named_as_what_they_are(name: str, start: bytes, what: str, tmp_path: Path) -> None:
    """As the file itself, and as all that its folder holds."""
    (tmp_path / name).write_bytes(start + bytes(600))
    with pytest.raises(UserError, match=rf"{name}: {what} .* give PyTorch weights of the same model"):
        load(tmp_path / name)
    if name != "renamed.bin":
        with pytest.raises(UserError, match=rf"the folder holds {name}, {what} .* give PyTorch weights of the same model"):
            load(tmp_path)


def test_a_second_head_without_bias_is_a_head(tmp_path: Path) -> None:
    """As the first one is: its bias is zero."""
    name = "deit_tiny_distilled_patch16_224"
    state = timm.create_model(name, num_classes=5).state_dict()
    torch.save({key: tensor for key, tensor in state.items() if key != "head_dist.bias"}, tmp_path / "deit.pth")
    source = TimmModel(name, checkpoint=str(tmp_path / "deit.pth"), num_classes=5)
    net: Any = source.build(image_size=None, device="cpu", dtype="float32", seed=0).tower
    assert torch.equal(net.head_dist.weight, state["head_dist.weight"])
    assert not net.head_dist.bias.any()


def red(image: Image.Image) -> Tensor:
    return torch.full((3, 4, 4), float(np.asarray(image)[0, 0, 0]))


@pytest.fixture
def unreadable(tmp_path: Path) -> list[Labelled]:
    """Eight files that are no pictures."""
    made = [Labelled(f"s{number}", tmp_path / f"{number}.jpg", 0) for number in range(8)]
    for example in made:
        example.image.write_text("hello")
    return made


FIRST = r"none of the 8 images.* could be read \(first: \S+[\\/]0\.jpg: unreadable image \(cannot identify image file"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("read", [lambda: batches, lambda: Kept(1 << 20).batches], ids=["batches", "kept"])
def test_where_no_picture_can_be_read_the_first_is_named(
    workers: int, cached: bool, read: Callable[[], Any], unreadable: Sequence[Labelled], tmp_path: Path, monkeypatch: Any
) -> None:
    """File and reason, however pictures are read: by other processes, from the cache (the second time), for several passes."""
    monkeypatch.setenv("FNA_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        reading = Reading(workers, cache=Cache(lambda line: None) if cached else None)
        with pytest.raises(UserError, match=FIRST):
            list(read()(unreadable, red, batch_size=3, skipped=[], reading=reading))


def test_pictures_to_measure_on_are_named_too(unreadable: list[Labelled]) -> None:
    with pytest.raises(UserError, match=FIRST):
        first_images(object(), Dataset("own", "val", "photographs", "digest", unreadable), 4)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fails:
    """Looks for a token that is not there."""

    gives: ClassVar[type] = Landmarks

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Any, count: int, keep: Any = None, drop: Any = None) -> Landmarks:
        return Landmarks([][count])


def test_an_exception_of_a_sampler_names_the_sampler() -> None:
    """And the line of its code, where the attention that asked it has done nothing wrong."""
    with pytest.raises(IndexError) as raised:
        fna.attention(Q, Q, Q, "fna", sampler=Fails(), landmarks=4)
    said = line(raised.value)
    assert f"raised by sampler {__name__}.Fails, {__file__}:" in said
    assert "raised by fna." not in said


def test_runs_on_two_ways_are_two_lines_that_say_which(tmp_path: Path) -> None:
    """Their row is one, their speeds are not."""
    for place, path in enumerate(("kernels", None, None)):
        made = result(hash="row", recipe="one")
        made["environment"] = {**made.get("environment", {}), "cpu_path": path}
        write_run(tmp_path / str(place), made)
    runs = results.load(tmp_path)
    assert len(merged(runs)) == 2
    summary = summarise(runs)
    at = list(summary.heads).index("FNA_CPU_PATH")
    assert sorted(row[at].text for row in summary.rows) == ["kernels", "timed"]
    first, second, third = (_key(run.result) for run in runs)
    assert first != second == third
