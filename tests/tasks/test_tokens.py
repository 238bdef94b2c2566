"""task=tokens and its study, on the planted model: the numbers are known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fna.data.base import Captioned, Dataset
from fna.errors import UserError
from fna.masking.lowrank import LowRank, cut_rank
from fna.masking.sinks import ARTIFACT, CLS, MASSIVE, NORMAL, categories
from fna.masking.strategy import Masking
from fna.models.base import Model, Weights
from fna.ops.contract import Site, Tokens
from fna.ops.exact import Exact
from fna.surgery.lookahead import swap_masked
from fna.surgery.registers import Registers
from fna.tasks.base import Run
from fna.tasks.calibration import calibrated
from fna.tasks.study import growth, study
from fna.tasks.tokens import Tokens as TokensTask
from tests.masking.planted import DEPTH, DETECT, SIDE, SUPPRESS, TRIGGER, planted_images, planted_model, token_set

MASSIVE_AT, DORMANT_AT = [[17], [3, 200], []], [[40, 99], [130], []]
IMAGES = planted_images(MASSIVE_AT, DORMANT_AT)


def wrapped(images: torch.Tensor = IMAGES) -> Model:
    """The planted model; its transform turns a picture that holds a number into that image."""
    tower = planted_model()
    return Model(
        name="planted",
        tower=tower,
        weights=Weights("written down", "planted", "none"),
        transform=lambda picture: images[picture.getpixel((0, 0))[0]],
        image_size=(2 * SIDE, 2 * SIDE),
        tokens=Tokens(prefix=1, grid=(SIDE, SIDE)),
        depth=DEPTH,
        device=torch.device("cpu"),
        dtype=torch.float32,
        encode_image=tower,
    )


@pytest.fixture
def numbered(tmp_path: Path) -> Dataset:
    """Pictures that hold the number of a planted image."""
    examples = []
    for number in range(len(IMAGES)):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
        examples.append(Captioned(str(number), path, ("",)))
    return Dataset("planted", "all", "generated", "planted", examples)


def test_counts_are_the_planted_ones_and_masks_change_them(numbered: Dataset) -> None:
    model, task = wrapped(), TokensTask(study=0)
    task.prepare(model, numbered, Run(2))
    assert task.seeking(model, numbered).detect == DETECT
    outcome = task.evaluate(model, numbered, Run(2))
    assert outcome.counts["massive"].tolist() == [1, 2, 0]
    assert outcome.counts["artifact"].tolist() == [2, 1, 0]
    assert outcome.labels == ["1 massive, 2 artifact", "2 massive, 1 artifact", "0 massive, 0 artifact"]
    assert np.isfinite(outcome.outputs).all()
    metrics = task.metrics({name: values.sum(0) for name, values in outcome.counts.items()})
    assert metrics["massive_per_image"] == pytest.approx(1)
    assert metrics["images_with_massive"] == pytest.approx(200 / 3)
    with swap_masked(model.tower, {0: Exact()}, Registers(found={SUPPRESS: [0]})):
        moved = task.evaluate(model, numbered, Run(2))
    assert moved.counts["massive"].tolist() == [0, 0, 0]
    assert moved.counts["largest"].max() < 10  # of the patches: the appended token, which took it over, is none of them


def test_a_model_without_cls_is_refused(numbered: Dataset) -> None:
    model = wrapped()
    model.tokens = Tokens(prefix=0)
    with pytest.raises(UserError, match="no CLS token"):
        TokensTask().check(model, numbered)


def test_the_study_has_the_planted_signs() -> None:
    found = study(wrapped(), IMAGES, Masking(least=4.0), ranks=(1, 4))
    assert found["counts"] == {"cls": 1, "massive": 1, "artifact": 1, "normal": 254}
    norms = found["norms"]
    assert norms["attended"]["massive"][SUPPRESS] < 10 < 150 < norms["leaving"]["massive"][SUPPRESS]
    assert max(norms["leaving"]["artifact"]) < 10
    pairs = found["suppression"][SUPPRESS]
    assert pairs[MASSIVE][MASSIVE] < -0.1
    assert pairs[ARTIFACT][MASSIVE] < -0.1
    for who in (MASSIVE, ARTIFACT, NORMAL, CLS):
        assert pairs[who][ARTIFACT] == pytest.approx(0, abs=1e-6)
        assert pairs[who][NORMAL] == pytest.approx(0, abs=1e-6)
    mass = found["mass"][SUPPRESS]
    assert mass[CLS][MASSIVE] == pytest.approx(2 / 3, abs=0.01)  # all of it in the two images that have some
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in mass)
    # With attention gone nobody suppresses: what would have stayed dormant grows.
    assert min(norms["leaving"]["artifact"]) < 10 < 500 < found["growth"]["without"]["artifact"][SUPPRESS]
    best = found["overlap"]["jaccard"][found["overlap"]["rules"].index("cls_proxy")]
    assert best[found["overlap"]["rules"].index("massive_activation")] == 1


def test_growth_without_attention_with_and_without_its_output_bias() -> None:
    """A bias that keeps the dormant asleep by itself: only without it do they grow, and afterwards it is there as before."""
    model = wrapped()
    bias = model.tower.blocks[SUPPRESS].attn.proj.bias
    with torch.no_grad():
        bias[TRIGGER] = -1
    kept = bias.detach().clone()
    both = [a + b for a, b in zip(MASSIVE_AT, DORMANT_AT, strict=True)]
    found = growth(model, IMAGES, categories(token_set(MASSIVE_AT), token_set(both), model.tokens), SUPPRESS)
    assert found["without"]["massive"][SUPPRESS] > 100
    assert max(found["without"]["artifact"]) < 10 < 500 < found["without_bias"]["artifact"][SUPPRESS]
    assert torch.equal(bias, kept)


def test_rank_curves_ask_classes_for_the_class_and_embeddings_for_their_cosine() -> None:
    embedder, classifier = wrapped(), wrapped()
    classifier.classify, classifier.encode_image = classifier.encode_image, None
    for model, near, whole in ((embedder, "cosine", 1.0), (classifier, "agreement", 100.0)):
        curves = study(model, IMAGES, Masking(), ranks=(1, 256))["ranks"]
        assert all(set(point) == {"partition", "rank", "error", near} for point in curves)
        assert [point[near] for point in curves if point["rank"] == 256] == pytest.approx([whole, whole])
        assert [point["error"] for point in curves if point["rank"] == 256] == pytest.approx([0, 0], abs=1e-5)


def test_taking_sinks_away_one_by_one_wakes_the_next() -> None:
    curves = study(wrapped(), IMAGES[:1], Masking(), ranks=(4,))["iterative"]
    masked = {curve["removed"]: curve["norms"] for curve in curves if (curve["mode"], curve["pattern"]) == ("mask", "type1")}
    assert masked[0][0] > 150 > 10 > masked[0][1]
    assert masked[1][1] > 500


def test_calibration_is_kept(numbered: Dataset, tmp_path: Path) -> None:
    model = wrapped()
    first = calibrated(Masking(rule="log_gap"), model, numbered, tmp_path / "kept")
    assert isinstance(first, Masking)
    assert first.detect == DETECT
    assert 2 < first.threshold < 200
    model.encode_image = None  # a second look would fail
    assert calibrated(Masking(rule="log_gap"), model, numbered, tmp_path / "kept") == first
    assert calibrated(first, model, numbered) is first
    registers = calibrated(Registers(neurons=1), wrapped(), numbered)
    assert isinstance(registers, Registers)
    assert registers.found == {SUPPRESS: [0]}


def test_cut_rank_by_hand() -> None:
    weights = torch.rand(2, 9, 9, dtype=torch.float64).softmax(-1)
    kind = torch.tensor([0] + [3] * 8)
    cut = cut_rank(weights, kind, 2)
    assert torch.equal(cut[:, 0], weights[:, 0])
    assert torch.equal(cut[:, :, 0], weights[:, :, 0])
    assert (torch.linalg.matrix_rank(cut[:, 1:, 1:]) == 2).all()
    torch.testing.assert_close(cut_rank(weights, kind, 8), weights)


def test_full_rank_is_exact_attention() -> None:
    q, k, v = torch.randn(3, 2, 2, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    site = Site(scale=0.5)
    torch.testing.assert_close(LowRank(8)(q, k, v, site), Exact()(q, k, v, site))
