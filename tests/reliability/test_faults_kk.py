"""Cases of two more readers, what of them failed: models compiled before a comparison, passes that stop early, timm's labels."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import fna
from fna.data.asked import answers
from fna.data.entries import Entry
from fna.data.karpathy import KarpathyCaptions
from fna.data.tsv import TsvCaptions
from fna.models.heads import timm_labels
from fna.runner.failures import mendable


def vit() -> Any:
    torch.manual_seed(0)
    return VisionTransformer(img_size=64, patch_size=8, embed_dim=64, num_heads=2, num_classes=5, depth=4).eval()


class Batches:
    """A loader that counts what was read of it."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Any:
        for seed in range(4):
            self.read += 1
            yield torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


OPTIONS: dict[str, Any] = {"landmarks": 8, "rounds": 0, "bootstrap": 100}


@pytest.mark.parametrize("where", ["a copy", "in place", "one block"])
def test_a_compiled_model_is_refused_by_a_comparison_before_it_reads_all_images(where: str) -> None:
    model, loader = vit(), Batches()
    if where == "in place":
        model.compile(backend="eager")
    if where == "one block":
        model.blocks[3].compile(backend="eager")
    given = torch.compile(model, backend="eager") if where == "a copy" else model
    with pytest.raises(fna.UserError, match=r"already compiled: hand over the one that torch.compile was given"):
        fna.compare(given, loader, "fna", **OPTIONS)
    assert loader.read == 0


def test_a_compiled_forward_is_refused_by_a_comparison() -> None:
    """torch 2.15 gives up a function after `recompile_limit` graphs (8): later contenders ran eagerly, the first ones did not."""
    model, loader = vit(), Batches()

    def double(images: Tensor) -> Tensor:
        return 2 * model(images)

    for forward in (torch.compile(model, backend="eager"), torch.compile(double, backend="eager")):
        with pytest.raises(fna.UserError, match=r"forward= is compiled, .* Give what it was made of"):
            fna.compare(model, loader, "fna", forward=forward, **OPTIONS)
    assert loader.read == 0
    assert fna.compare(model, loader, "fna", forward=double, **OPTIONS).result


def test_a_forward_of_length_zero_is_still_the_forward() -> None:
    """A module whose `len` is 0 is false to Python; it was passed by, and the model asked instead, without a word."""
    asked = []

    class Asks(torch.nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            asked.append(len(images))
            return model(images)

    model = vit()
    fna.compare(model, Batches(), "fna", forward=Asks(), **OPTIONS)
    assert asked


def test_a_pass_that_stops_behind_some_changed_blocks_is_warned_of_and_loses_nothing() -> None:
    """timm's `stop_early`: the outputs hang on no block behind, and a script that saves them after the block must get there."""
    model, images = vit(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def features(stop: bool) -> Tensor:
        with fna.swap(model, "fna", layers="all", landmarks=8):
            (found,) = model.forward_intermediates(images, indices=[1], intermediates_only=True, stop_early=stop)
        return found

    with torch.no_grad():
        whole = features(stop=False)
        with pytest.warns(UserWarning, match=r"blocks \[2, 3\] were changed but never ran: the model stopped behind block 1"):
            assert features(stop=True).equal(whole)


def test_labels_in_timms_pretrained_cfg_name_the_heads_rows() -> None:
    """timm 1.0's `PretrainedCfg` has `label_names` and `label_descriptions`; what stands outside it comes first."""
    inner = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat"}}
    assert timm_labels({"pretrained_cfg": inner}, 2) == (["n1", "n2"], ["cat", "n2"])
    assert timm_labels({"pretrained_cfg": inner, "label_names": ["a", "b"]}, 2) == (["a", "b"], ["a", "b"])
    assert timm_labels({"pretrained_cfg": {"label_names": None}}, 2) == timm_labels({"pretrained_cfg": "x"}, 2) == (None, None)


def test_answers_of_people_are_read_as_vqav2_and_vizwiz_have_them() -> None:
    said = [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}, {"answer": "crimson", "answer_id": 2}]
    assert answers(Entry({"answers": said}, "a.jsonl, line 1")) == ("red", "crimson")
    with pytest.raises(fna.UserError, match=r"line 1: answers is .*an answer, or a list of answers, is needed"):
        answers(Entry({"answers": [{"text": "red"}]}, "a.jsonl, line 1"))


def some(root: Path, *names: str) -> None:
    for place, name in enumerate(names):
        Image.new("RGB", (8, 8), (place, 9, 9)).save(root / name)


def table(root: Path, **options: Any) -> TsvCaptions:
    lines = ["filepath\ttitle", *(f"{name}\ta thing called {name}" for name in ("a.png", "b.png", "c.png"))]
    (root / "captions.tsv").write_text("\n".join(lines))
    return TsvCaptions(root=str(root), annotations="captions.tsv", **options)


def split(root: Path, **options: Any) -> KarpathyCaptions:
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": f"a thing called {name}"}]}
        for name in ("a.png", "b.png", "c.png")
    ]
    (root / "dataset.json").write_text(json.dumps({"images": images}))
    return KarpathyCaptions(root=str(root), annotations="dataset.json", **options)


@pytest.mark.parametrize("made", [table, split])
def test_captioned_images_that_are_not_there_are_left_out_where_that_is_said(made: Any, tmp_path: Path) -> None:
    """As the README says of every reader of captions: a Flickr30k with a lost file, a table of links of which some are dead."""
    some(tmp_path, "a.png", "c.png")
    with pytest.raises(fna.UserError, match=r"1 of the annotated files is not there, b.png .*dataset.missing=skip goes on without"):
        made(tmp_path).load(None)
    data = made(tmp_path, missing="skip").load(None)
    assert [example.key for example in data.examples] == ["a.png", "c.png"]
    assert "1 of 3 images left out: not there (first: b.png)" in data.notes
    some(tmp_path, "b.png")
    assert len(made(tmp_path, missing="skip").load(None).examples) == 3


class Doomed(Dataset[int]):
    """Its second sample ends the process that reads it, as a system without memory does."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> int:
        if place:
            time.sleep(0.3)  # until the first has arrived
            os.kill(os.getpid(), signal.SIGKILL)
        return place


def test_a_reading_process_that_the_system_ends_is_one_line_wherever_the_run_is() -> None:
    """torch 2.15 raises it from its handler of SIGCHLD: in a forward as well as in the loader's own `next`."""
    loader = iter(DataLoader(Doomed(), batch_size=1, num_workers=1, prefetch_factor=2, multiprocessing_context="fork"))
    assert next(loader) == 0
    with pytest.raises(RuntimeError) as raised:
        time.sleep(20)  # the forward of a slow model
    said = mendable(raised.value)
    assert isinstance(said, fna.UserError)
    assert "the system ended a process that reads images (DataLoader worker" in str(said)
    assert "workers=0 reads in this process" in str(said)


@pytest.mark.parametrize("made", [torch.jit.trace, lambda model, images: torch.export.export(model, (images,)).module()])
def test_a_graph_made_before_a_swap_is_refused_with_what_can_be_done(made: Any) -> None:
    graph = made(vit(), torch.zeros(1, 3, 64, 64))
    with pytest.raises(fna.UserError, match=r"is a graph .* made of a model: swap that model, and make the graph inside the with"):
        fna.swap(graph, "fna", layers="all", landmarks=8)
