"""`fna.compare`: a module and a loader of one's own."""

from __future__ import annotations

import copy
import inspect
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fna
from fna.configs import KEYWORDS
from fna.errors import UserError
from fna.ops.exact import Exact
from fna.ops.nystrom import FastNystrom
from tests.surgery.zoo import zoo

QUICK: dict[str, Any] = {"rounds": 0, "bootstrap": 100}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3, img_size=96).eval()


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(20, 3, 96, 96, generator=generator), torch.randint(0, 3, (20,), generator=generator))


def test_the_paired_table_with_intervals_and_cost(model: nn.Module, data: TensorDataset, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = fna.compare(model, DataLoader(data, batch_size=8), "fna", landmarks=4, metric="top1", rounds=2, bootstrap=100)
    top1 = found.result["metrics"]["top1"]
    images, labels = data.tensors
    with torch.inference_mode():
        right = (model(images).argmax(1) == labels).float().mean()
    assert top1["full"] == pytest.approx(100 * float(right))
    assert top1["ci"][0] <= top1["delta"] <= top1["ci"][1]
    assert found.result["cost"]["speedup"]["median"] > 0
    assert "top-1" in str(found)
    with pytest.raises(UserError, match=r"page\.html'\): give a folder, which takes a page"):
        found.save(tmp_path / "page.html")
    page = found.save(tmp_path / "page")
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()
    assert json.loads((tmp_path / "page" / "result.json").read_text())["status"] == "ok"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_loader_may_shuffle(model: nn.Module, data: TensorDataset) -> None:
    """Samples are told by their pixels, so exact attention agrees with full whatever the order of each pass."""
    found = fna.compare(model, DataLoader(data, batch_size=8, shuffle=True), "exact", metric="top1", **QUICK)
    assert found.result["fidelity"]["agreement"] == 100
    assert found.result["fidelity"]["output_error"] < 1e-5


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_picture_that_comes_twice_with_different_targets_stays_its_own_pair_in_every_order(
    model: nn.Module, data: TensorDataset, kind: Any
) -> None:
    images, labels = data.tensors[0][:1].expand(12, -1, -1, -1), [0, 1, 2] * 4

    class Shuffled:
        def __iter__(self) -> Any:
            order = torch.randperm(12).tolist()
            yield images, kind([labels[place] for place in order])

    found = fna.compare(model, Shuffled(), "exact", metric="top1", **QUICK)
    assert found.result["metrics"]["top1"]["ci"] == [0, 0]


def test_the_right_one_among_the_first_five_of_three_classes_is_no_finding_and_refused(
    model: nn.Module, data: TensorDataset
) -> None:
    with pytest.raises(UserError, match="metric=top5: of 3 classes the first 5 always hold the right one; take top1"):
        fna.compare(model, DataLoader(data, batch_size=8), "exact", metric="top5", **QUICK)


def test_many_contenders(model: nn.Module, data: TensorDataset) -> None:
    batches = [(data.tensors[0][:10], data.tensors[1][:10]), (data.tensors[0][10:], data.tensors[1][10:])]
    versus = ["nystromformer", {"attn": "fna", "landmarks": 16}, "exact"]
    found = fna.compare(model, batches, "fna", landmarks=4, layers="all", versus=versus, **QUICK)
    assert [one["label"] for one in found.result["contenders"]] == ["fna landmarks=4", "nystromformer", "fna landmarks=16", "exact"]
    assert len(found.result["pairs"]) == 6
    assert found.result["metrics"] == {}


def test_a_plan_gives_ranges_of_blocks_a_method_each(model: nn.Module, data: TensorDataset) -> None:
    images = [data.tensors[0][:4]]
    last = len(model.blocks) - 1
    plan = {f"0-{last - 1}": "exact", last: "fna"}
    two = {"attn": {0: FastNystrom(landmarks=4), last: FastNystrom(landmarks=16)}}
    found = fna.compare(model, images, plan, landmarks=4, versus=[{"attn": "fna", "layers": last}, two, "exact"], **QUICK)
    labels = [one["label"] for one in found.result["contenders"]]
    assert labels[0] == f"0-{last - 1}: exact, {last}: fna landmarks=4"
    assert labels[2] == f"0: FastNystrom(landmarks:4), {last}: FastNystrom(landmarks:16)"
    errors = [one["fidelity"]["output_error"] for one in found.result["contenders"]]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)  # exact elsewhere
    assert errors[2] > errors[0]
    for wrong, message in (({"0-99": "fna"}, "attn=.*this model has blocks|attn=0-99"), ({}, "names no block")):
        with pytest.raises(UserError, match=message):
            fna.compare(model, images, wrong, **QUICK)
    with pytest.raises(UserError, match="a plan says which blocks itself"):
        fna.compare(model, images, plan, layers="all", **QUICK)


def test_the_result_says_which_sampler_drew(model: nn.Module, data: TensorDataset) -> None:
    found = fna.compare(
        model, DataLoader(data, batch_size=8), "fna", landmarks=4, versus=[{"attn": "fna", "sampler": "random"}, "exact"], **QUICK
    )
    assert [one["sampler"] for one in found.result["contenders"]] == ["fps", "random", "none"]
    assert found.result["contenders"][2]["landmarks"] is None


def test_the_result_says_how_many_landmarks_each_has(model: nn.Module, data: TensorDataset) -> None:
    class Toy(Exact):
        """A method of one's own, which has none."""

    versus = [FastNystrom(landmarks=7), Toy(), "window", {"attn": "hyper", "landmarks": 5}]
    found = fna.compare(model, DataLoader(data, batch_size=8), "fna", landmarks=4, versus=versus, **QUICK)
    assert [one["landmarks"] for one in found.result["contenders"]] == [4, 7, None, None, 5]


def test_a_metric_of_ones_own(model: nn.Module, data: TensorDataset) -> None:
    def sure(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.softmax(-1).amax(-1)

    found = fna.compare(model, DataLoader(data, batch_size=8), "fna", landmarks=4, metric=sure, **QUICK)
    assert 0 < found.result["metrics"]["sure"]["full"] < 100


def test_a_metric_of_which_less_is_better_is_said_to_be_one_and_told_so(model: nn.Module, data: TensorDataset) -> None:
    def miss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) != targets).float()

    loader = DataLoader(data, batch_size=8)
    found = fna.compare(model, loader, "fna", landmarks=4, metric=miss, lower_is_better=True, versus=["exact"], **QUICK)
    assert found.result["metrics"]["miss"]["better"] == "less"
    assert all(pair["metrics"]["miss"]["better"] == "less" for pair in found.result["pairs"])
    assert "miss: less is better" in str(found)
    for metric, said in (("top1", "metric=top1 counts what is right"), (None, "none is given")):
        with pytest.raises(UserError, match=f"lower_is_better=True: is of a metric of your own, and {said}; leave it out"):
            fna.compare(model, loader, "exact", metric=metric, lower_is_better=True, **QUICK)


@pytest.mark.parametrize("name", ["open_clip", "hf_clip_pair", "hf_dinov2"])
def test_towers_of_other_libraries(name: str) -> None:
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = fna.compare(zoo(name), [images[:4], images[4:]], "exact", **QUICK)
    assert found.result["fidelity"]["output_error"] < 1e-4


class Gridless(nn.Module):
    """A module of one's own that says nothing of a grid: 36 tokens of an image of 48 x 48 px."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.patch, self.body = nn.Conv2d(3, 32, 8, 8), nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.patch(images).flatten(2).mT).mean(1)  # type: ignore[no-any-return]


def resampling_dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=96, patch_size=8))


@pytest.mark.parametrize(
    ("make", "tokens"),
    [
        (Gridless, 36),
        (resampling_dinov2, 37),
        (lambda: timm.create_model("test_vit", img_size=96, dynamic_img_size=True), 10),
    ],
    ids=["no grid said", "transformers resamples its positions", "timm resamples its positions"],
)
def test_the_tokens_that_are_told_are_those_of_the_loaders_images(make: Any, tokens: int) -> None:
    """Not those of the size that the module was made for, nor none where it says nothing of a grid."""
    torch.manual_seed(0)
    found = fna.compare(make().eval(), [torch.randn(3, 3, 48, 48)], "fna", landmarks=4, **QUICK)
    assert found.result["tokens"] == tokens
    assert f"{tokens} tokens" in str(found)


def test_agreement_of_outputs_that_are_no_classes_is_of_the_nearest_other_sample(model: nn.Module, data: TensorDataset) -> None:
    """The place of the largest number in an embedding means nothing; of logits, known by the module's head, it is the class."""

    def doubled(images: Tensor) -> Tensor:
        return torch.cat([images.mean((2, 3)), 9 * torch.ones(len(images), 1)], 1)  # its argmax is the same for all images

    def labels(forward: Any) -> set[str]:
        from fna.data.loading import Kept
        from fna.tasks.base import Run
        from fna.tasks.own import Own, own_dataset, own_model

        loader = DataLoader(data, batch_size=8)
        dataset, _ = own_dataset(loader, "a loader")
        own = own_model(model, data.tensors[0][:1], "vit", forward)
        return set(Own(loader, forward).evaluate(own, dataset, Run(8, kept=Kept(0))).labels)

    assert labels(model) <= {"0", "1", "2"}
    assert len(labels(doubled)) > 1
    shuffled = DataLoader(data, batch_size=8, shuffle=True)
    found = fna.compare(model, shuffled, "exact", forward=model.forward_features, **QUICK)
    assert found.result["fidelity"]["agreement"] == 100
    assert any("agreement is of the nearest other sample" in note and "num_classes" in note for note in found.result["notes"])
    known = fna.compare(model, shuffled, "exact", **QUICK)
    assert not any("nearest other sample" in note for note in known.result["notes"])


def test_a_mask_is_calibrated_on_the_loader(model: nn.Module, data: TensorDataset) -> None:
    found = fna.compare(model, DataLoader(data, batch_size=8), "exact", mask="massive", **QUICK)
    assert found.result["mask"] == "massive"


class Drawn:
    """A loader of a training recipe: each pass sees the images another way."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Any:
        return iter([self.images + torch.randn_like(self.images)])


def test_an_empty_batch_is_passed_over_and_a_metric_without_a_name_is_called_by_its_class(
    model: nn.Module, data: TensorDataset
) -> None:
    images, labels = data.tensors
    found = fna.compare(model, [(images, labels), (images[:0], labels[:0])], "exact", metric=Likelihood(), **QUICK)
    assert (found.result["samples"], [*found.result["metrics"]]) == (20, ["Likelihood"])


class Likelihood:
    """The probability of the target."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (-nn.functional.cross_entropy(outputs, targets, reduction="none")).exp()


def test_mistakes_are_one_line(model: nn.Module, data: TensorDataset) -> None:
    loader = DataLoader(data, batch_size=8)
    images = data.tensors[0]
    once = iter([images])
    for given, options, said in (
        (loader, {"metric": "top3"}, "metric=top3: give top1 or top5"),
        ([images], {"metric": "top1"}, "have the loader give .images, targets."),
        ([], {}, "the loader gives no batch"),
        (once, {}, "gone through again"),
        ([{"x": images}], {}, r"each batch of the loader has to be images"),
        (loader, {"landmarks": -1}, "landmarks=-1"),
        (loader, {"layers": "0-99"}, "blocks 0-"),
        (loader, {"versus": [{}]}, "fna stands there twice"),
        (
            loader,
            {"layers": {"auto": ["fna", "fna_plus"]}},
            r"^layers=.*: auto measures .*on the command line alone; write a plan as",
        ),
        (loader, {"layers": {"0": "fna"}}, r"^layers=\{'0': 'fna'\}: write a plan as attn="),
        (loader, {"versus": "exact"}, r"versus=exact: give a list of contenders, such as \['exact'\]"),
        (loader, {"metric": lambda outputs, targets: outputs}, "one number a sample"),
        # a loss that rose from 0.79 to 4.69 was told as a gain of 390 points
        (loader, {"metric": nn.CrossEntropyLoss(reduction="none")}, r"from 0 \(wrong\) to 1 \(right\).*of a loss \(-loss\).exp"),
        (loader, {"forward": lambda images: SimpleNamespace()}, "no tensor"),
        (loader, {"foo": 3}, "attn=fna has no option foo"),
    ):
        with pytest.raises(fna.UserError, match=said):
            fna.compare(model, given, "fna", **{**QUICK, **options})
    for given, options, said in (
        (None, {}, "loader=None: give one that can be gone through"),
        (3, {}, "loader=3: give one"),
        (images, {}, r"this is a Tensor \[3, 96, 96\]"),
        ([None], {}, "this is None"),
        ([()], {}, "this is a tuple of 0"),
        ([{"image": images}], {}, "a dict of image, of which pixel_values and labels would be read"),
        ([images[:, :1]], {}, r"cannot take an image of the loader \(1 x 96 x 96\)"),
        ([images / images.ge(0.5)], {}, r"the loader's images hold NaN or infinity \(20 of 20 in a batch\): mend its transform"),
        ([images.to(torch.uint8)], {}, "torch.uint8: give what the model is given"),
        ([(images, ["a"] * 20)], {"metric": "top1"}, r"the targets are a list of 20 \(str\)"),
        (loader, {"forward": lambda images: model(images).mean()}, r"the model gives outputs \[\] for 8 images"),
        (loader, {"forward": 3}, "forward=3: give a function"),
        (loader, {"metric": 3}, "metric=3: give top1"),
        (loader, {"metric": lambda outputs, targets: None}, "gave None for 8 samples"),
        (loader, {"metric": lambda outputs, targets: outputs[:, 0] * torch.nan}, "gave NaN or infinity for 8 of 8 samples"),
        (loader, {"metric": lambda outputs: outputs}, r"fails on outputs \[8, 3\]"),
        (loader, {"versus": None}, r"versus=None: give a list of contenders, such as \['exact'\]"),
        (loader, {"versus": {"attn": "exact"}}, "give a list of contenders"),
        (loader, {"versus": ["attn=fna landmarks=3"]}, "words are for the command line"),
        (loader, {"rounds": -1}, "rounds=-1: give a whole number"),
        (loader, {"rounds": 1.5}, "rounds=1.5: give a whole number"),
        (loader, {"bootstrap": 0}, "bootstrap=0: give a whole number"),
        (loader, {"seed": "a"}, "seed=a: give a whole number"),
        (loader, {"versus": [{"attn": "exact"}, "exact"]}, "versus: exact stands there twice"),
        (Drawn(images), {}, "the loader gives other images in each pass.*without augmentation"),
    ):
        with pytest.raises(fna.UserError, match=said) as raised:
            fna.compare(model, given, "fna", **{**QUICK, **options})
        assert "\n" not in str(raised.value)
    with pytest.raises(fna.UserError, match="holds no vision transformer"):
        fna.compare(nn.Linear(3, 3), loader, "fna", **QUICK)


@pytest.mark.parametrize("given", [None, "clip", nn.Linear, lambda images: images])
def test_what_is_no_module_is_no_model(given: Any, data: TensorDataset) -> None:
    with pytest.raises(fna.UserError, match=r"is no torch.nn.Module; hand over the model itself"):
        fna.compare(given, DataLoader(data, batch_size=8), "fna", **QUICK)


@pytest.mark.parametrize(
    ("typo", "near"), [("landmark", "landmarks"), ("atn", "attn"), ("layer", "layers"), ("metrics", "metric"), ("step", "steps")]
)
def test_the_nearest_option_is_named(model: nn.Module, data: TensorDataset, typo: str, near: str) -> None:
    with pytest.raises(fna.UserError, match=f"has no option {typo}; did you mean {near}\\?"):
        fna.compare(model, DataLoader(data, batch_size=8), **{**QUICK, typo: 3})
    with pytest.raises(fna.UserError, match=f"has no option {typo}; did you mean {near}\\?"):
        fna.swap(model, **{typo: 3})


@pytest.mark.parametrize(
    ("attn", "options", "said"),
    [
        ("fna_plus", {"sampler": "random"}, "sampler=random: attn=fna_plus does not draw tokens by it; leave it out."),
        ("window", {"landmarks": 16}, "landmarks=16: attn=window counts no landmarks; leave it out."),
        ("exact", {"landmarks": 0.5}, "landmarks=0.5: attn=exact counts no landmarks; leave it out."),
        ("nystromformer", {"sampler": "kmeans"}, "sampler=kmeans: attn=nystromformer does not draw tokens by it; leave it out."),
        ("FNA+", {"landmarks": 16}, "attn=FNA+: no such attn; did you mean fna_plus?"),
        ("fna", {"landmarks": "auto"}, "landmarks=auto: is measured on the data of a run, on the command line alone; give a count"),
        (
            "fna",
            {"landmarks": "many"},
            "landmarks=many: give a count from 1 to 1000000, or a fraction of the tokens",
        ),
        ("fna", {"landmarks": 1.5}, "landmarks=1.5: give a count from 1 to 1000000, or a fraction"),
        ("fna", {"layers": "auto"}, "layers=auto: auto stands alone, and on the command line only, which measures it; use all,"),
    ],
)
def test_what_a_method_does_not_use_is_refused_as_on_the_command_line(
    model: nn.Module, data: TensorDataset, attn: str, options: dict[str, Any], said: str
) -> None:
    loader, q = DataLoader(data, batch_size=8), torch.zeros(1, 1, 5, 4)
    calls = [lambda: fna.swap(model, attn, **options), lambda: fna.compare(model, loader, attn, **QUICK, **options)]
    calls.append(lambda: fna.compare(model, loader, "fna", versus=[{"attn": attn, **options}], **QUICK))
    calls += [] if "layers" in options else [lambda: fna.attention(q, q, q, attn, **options)]
    for call in calls:
        with pytest.raises(fna.UserError) as refusal:
            call()
        assert str(refusal.value).startswith(said)


def test_every_keyword_can_be_the_one_that_was_meant() -> None:
    calls = (fna.swap, fna.compare, fna.attention)
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = {one.name for call in calls for one in inspect.signature(call).parameters.values() if one.kind in kinds}
    assert named - {"model", "loader", "q", "k", "v"} == set(KEYWORDS)


def test_a_model_in_training_mode_is_told_of(model: nn.Module, data: TensorDataset) -> None:
    found = fna.compare(copy.deepcopy(model).train(), [data.tensors[0]], "exact", **QUICK)
    assert "! the model is in training mode" in str(found)
    assert "training mode" not in str(fna.compare(model, [data.tensors[0]], "exact", **QUICK))


def test_more_landmarks_than_tokens_are_a_note_and_no_warning_of_python(model: nn.Module, data: TensorDataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the cost is measured and pictures are made too
        found = fna.compare(model, [data.tensors[0][:4]], "fna", landmarks=500, rounds=1, bootstrap=100)
    assert [line for line in found.result["warnings"] if line.startswith("landmarks=500 is more than a block has tokens")]
    assert str(found).count("landmarks=500 is more") == 1


def test_all_contenders_are_printed(model: nn.Module, data: TensorDataset) -> None:
    found = fna.compare(model, DataLoader(data, batch_size=8), "fna", landmarks=4, versus=["nystromformer"], metric="top1", **QUICK)
    text = str(found)
    assert text.startswith("2 comparisons with full attention.")
    assert "FNA " in text
    assert "Nyströmformer" in text
    assert "McNemar p" in text
    assert "nystromformer" not in text


def test_a_named_contender_has_the_landmarks_of_the_first_where_it_says_none(model: nn.Module, data: TensorDataset) -> None:
    loader = DataLoader(data, batch_size=8)
    versus = ["nystromformer", {"attn": "nystromformer", "landmarks": 4}, {"attn": "fna", "landmarks": 8}, "exact"]
    found = fna.compare(model, loader, "fna", landmarks=4, versus=versus, **QUICK).result["contenders"]
    assert [one["landmarks"] for one in found[:4]] == [4, 4, 4, 8]
    assert found[1]["fidelity"] == found[2]["fidelity"]


def test_a_contender_without_an_attention_is_the_first_with_what_it_names_changed(model: nn.Module, data: TensorDataset) -> None:
    loader = DataLoader(data, batch_size=8)
    versus = [{"reduce": "tome"}, {"sampler": "random", "layers": "all"}, {"attn": "fna", "landmarks": 5, "reduce": "tome"}]
    found = fna.compare(model, loader, "fna", landmarks=5, versus=versus[:2], **QUICK).result["contenders"]
    assert [one["label"] for one in found] == ["fna landmarks=5", "fna landmarks=5 reduce=tome", "fna landmarks=5 sampler=random"]
    assert [one["landmarks"] for one in found] == [5, 5, 5]
    same = fna.compare(model, loader, "exact", versus=versus[2:], **QUICK).result["contenders"][1]
    assert same["fidelity"] == found[1]["fidelity"]


@pytest.mark.parametrize("sizes", [(3, 64, 64), (1, 96, 96), (3, 96, 100)])
def test_a_later_batch_of_another_size_is_named_in_one_line(model: nn.Module, sizes: tuple[int, ...]) -> None:
    loader = [torch.zeros(2, 3, 96, 96), torch.zeros(2, *sizes)]
    with pytest.raises(UserError, match=f"{sizes[0]} x {sizes[1]} x {sizes[2]} after ones of 3 x 96 x 96") as refused:
        fna.compare(model, loader, "exact", **QUICK)
    assert "\n" not in str(refused.value)
