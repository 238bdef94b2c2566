"""Numbers and sentences: what a headline may and may not say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fna.models.base import Model, Weights
from fna.ops.contract import Tokens
from fna.report import formats, notes, verdicts, words
from tests.report.made_up_results import result, retrieval


def sentence(**changes: object) -> str:
    return words.plain(words.headline(result(**changes)))


def metric(delta: float, low: float, high: float) -> dict[str, object]:
    return {"top1": {"full": 70.0, "variant": 70.0 + delta, "delta": delta, "ci": [low, high]}}


def speed(median: float, low: float, high: float) -> dict[str, object]:
    return {"speedup": {"median": median, "ci": [low, high]}, "baseline": "exact"}


def test_headline_keeps() -> None:
    expected = (
        "made_up_vit on made_up_photos: FNA with 64 landmarks in blocks 4-7 keeps top-1 within -0.2 [-0.8, +0.4] points "
        "at 1.19x the speed of exact attention."
    )
    assert sentence() == expected


def test_an_agreement_short_of_all_does_not_read_as_all() -> None:
    assert formats.agreement(99.97) == "99.97 %"
    assert formats.agreement(100) == "100.0 %"
    assert formats.agreement(99.9) == "99.9 %"


def test_headline_does_not_say_keeps_where_the_interval_is_wide_or_below_zero() -> None:
    assert "loses 2.0 [1.0, 3.0] points of top-1" in sentence(metrics=metric(-2, -3, -1))
    assert "gains 2.0 [1.0, 3.0] points of top-1" in sentence(metrics=metric(2, 1, 3))
    unclear = sentence(metrics=metric(-2, -6, 2), samples=79)
    assert "leaves top-1 as it is on 12 samples, too few to say more" in sentence(metrics=metric(0, 0, 0), samples=12)
    assert "changes top-1 by -2.0 [-6.0, +2.0] points, not told apart from zero on 79 samples" in unclear


def test_a_small_difference_does_not_read_as_none() -> None:
    assert "gains 0.010 [0.002, 0.030] points of top-1" in sentence(metrics=metric(0.01, 0.002, 0.03))
    assert "loses 0.04 [0.02, 0.06] points of top-1" in sentence(metrics=metric(-0.04, -0.06, -0.02))
    assert "keeps top-1 within +0.01 [-0.20, +0.25] points" in sentence(metrics=metric(0.01, -0.2, 0.25))
    assert "keeps top-1 within 0.0 [-0.2, +0.2] points" in sentence(metrics=metric(1e-12, -0.2, 0.2))
    assert formats.change(-0.0004, [-0.001, 0.0], 2) == ("-0.0004", "[-0.0010, 0.0000]")
    assert formats.change(0.25, [0.1, 0.4], 2) == ("+0.25", "[+0.10, +0.40]")


def test_where_full_gets_nothing_right_there_is_nothing_to_keep() -> None:
    nothing = {"vqa_accuracy": {"full": 0.0, "variant": 0.0, "delta": 0.0, "ci": [0.0, 0.0]}}
    for samples in (8, 500):
        said = sentence(metrics=nothing, samples=samples)
        assert (
            f"cannot be judged by VQA accuracy: full attention gets nothing right on these {samples} samples either, at 1.19x"
            in said
        )
        assert verdicts.verdict(result(metrics=nothing, samples=samples)) == "unclear"


def test_a_metric_of_which_less_is_better_is_told_by_its_own_measure() -> None:
    def errs(delta: float, low: float, high: float) -> dict[str, object]:
        return {"miss": {"full": 9.0, "variant": 9.0 + delta, "delta": delta, "ci": [low, high], "better": "less"}}

    assert "changes miss for the worse, by +2.0 [+1.0, +3.0] points" in sentence(metrics=errs(2, 1, 3))
    assert "changes miss for the better, by -2.0 [-3.0, -1.0] points" in sentence(metrics=errs(-2, -3, -1))
    assert "keeps miss within +0.2 [-0.5, +1.0] points" in sentence(metrics=errs(0.2, -0.5, 1))
    assert "changes miss by +0.2 [-0.5, +2.0] points, not told apart" in sentence(metrics=errs(0.2, -0.5, 2))
    assert [verdicts.tone("miss", errs(*found)["miss"]) for found in ((2, 1, 3), (-2, -3, -1))] == ["bad", "good"]


def test_metrics_that_both_have_in_full_are_said_to_tell_nothing_apart() -> None:
    top = {"full": 100.0, "variant": 100.0, "delta": 0.0, "ci": [0.0, 0.0]}
    errors = {"ece": top, "miss": {**top, "better": "less"}, "largest_norm": top, "relative": top}
    (said,) = notes.at_ceiling(result(metrics={**metric(0, 0, 0), "t2i_r5": top, "t2i_r10": top, **errors}))
    assert (
        said == "text-to-image R@5; text-to-image R@10: 100 on both sides, the most there is, so that nothing is told apart there"
    )
    assert notes.at_ceiling(result()) == []


def test_headline_tells_faster_from_slower_from_even() -> None:
    assert "and is slower: 0.84x the speed of exact" in sentence(cost=speed(0.84, 0.82, 0.86))
    assert "at the same speed within the noise (1.01x)" in sentence(cost=speed(1.01, 0.97, 1.04))
    assert "at 0.72x [0.42, 1.08] the speed of exact attention, too noisy to tell" in sentence(cost=speed(0.72, 0.42, 1.08))
    assert "speed" not in sentence(cost={})


def test_headline_names_the_direction_that_lost_most() -> None:
    content = retrieval()
    content["metrics"]["i2t_r1"]["delta"] = -1.3
    assert "image-to-text R@1" in words.plain(words.headline(content))


def test_random_weights_come_first() -> None:
    assert sentence(checkpoint="random (seed 0)").startswith("Random weights")
    assert any("scores mean nothing" in note for note in notes.caveats(result(checkpoint="random (seed 0)")))
    assert notes.caveats(result(checkpoint="random (seed 0)", notes=["random weights, asked for"])) == ["random weights, asked for"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"layers": "all"}, "FNA with 64 landmarks in all blocks"),
        ({"layers": [0, 3, 6, 7, 8]}, "FNA with 64 landmarks in blocks 0, 3, 6-8"),
        ({"landmarks": 0.1}, "FNA with 10 % of the tokens as landmarks in blocks 4-7"),
        ({"landmarks": 1}, "FNA with 1 landmark in blocks 4-7"),
        ({"landmarks": "auto", "attn": "tome"}, "ToMe with auto landmarks in blocks 4-7"),
        ({"landmarks": "auto", "auto": {"landmarks": {"4": 24, "5": 8, "6": 128}}}, "FNA with 8 to 128 landmarks in blocks 4-7"),
        ({"landmarks": "auto", "auto": {"landmarks": {"4": 24, "5": 24}}}, "FNA with 24 landmarks in blocks 4-7"),
        ({"attn": "exact"}, "Exact attention in blocks 4-7"),
        ({"attn": "exact", "layers": []}, "Exact attention"),
        ({"attn": "exact", "mask": "both", "mask_blocks": [11]}, "Mask both in block 11"),
        ({"mask": "both", "mask_blocks": [6, 7]}, "FNA with 64 landmarks in blocks 4-7, mask both in blocks 6-7,"),
        ({"attn": "low_rank", "landmarks": 2}, "Attention of rank 2 in blocks 4-7"),
        ({"reduce": "tome"}, "FNA over ToMe with 64 landmarks in blocks 4-7"),
        ({"reduce": "tome", "attn": "exact", "landmarks": None}, "ToMe in blocks 4-7"),
        ({"attn": "none", "layers": None}, "The variant"),
        ({"plan": "0-3: fna_local, 4-7: fna_plus"}, "Plan with 64 landmarks in blocks 0-3: fna_local, 4-7: fna_plus"),
        ({"attn": "fna_local", "plan": "0-7: fna_plus"}, "FNA+ with 64 landmarks in blocks 0-7"),
        ({"attn": "fna_local", "plan": "0: fna_plus, 2-7: fna_plus"}, "FNA+ with 64 landmarks in blocks 0, 2-7"),
        ({"attn": "fna_local", "plan": "3: fna_plus"}, "FNA+ with 64 landmarks in block 3"),
    ],
)
def test_subject(changes: dict[str, object], expected: str) -> None:
    assert words.subject(result(**changes)) == expected


def test_a_headline_names_a_loss_beyond_the_noise_before_a_larger_difference_within_it() -> None:
    """Text to image -6.0 [-13.0, 0.0] was named, and image to text -5.0 [-9.0, -1.0] was not."""
    unclear = {"full": 92.0, "variant": 86.0, "delta": -6.0, "ci": [-13.0, 0.0]}
    lost = {"full": 93.0, "variant": 88.0, "delta": -5.0, "ci": [-9.0, -1.0]}
    said = words.plain(words.headline(result(task="retrieval", samples=100, metrics={"t2i_r1": unclear, "i2t_r1": lost})))
    assert "loses 5.0 [1.0, 9.0] points of image-to-text R@1" in said
    both = result(task="retrieval", samples=100, metrics={"t2i_r1": unclear, "i2t_r1": unclear | {"delta": -3.0}})
    assert "text-to-image R@1 by -6.0" in words.plain(words.headline(both))


def test_a_model_that_runs_any_folder_is_called_by_its_folder() -> None:
    assert words.place(result(model="hf", checkpoint="weights/dinov2_small")) == "hf dinov2_small on made_up_photos"
    assert words.place(result(model="hf", checkpoint="random (seed 0)")) == "hf on made_up_photos"


def test_a_network_that_was_named_is_called_by_its_name() -> None:
    """An own ViT-S-32 was called clip_l14."""
    typed = ["model=clip_l14", "model.name=ViT-S-32"]
    assert words.place(result(model="clip_l14", overrides=typed)) == "ViT-S-32 on made_up_photos"


def test_numbers() -> None:
    assert [formats.signed(value) for value in (0.04, -0.04, 0.05, -1, None, float("nan"))] == [
        "0.0",
        "0.0",
        "+0.1",
        "-1.0",
        "–",
        "–",
    ]
    assert [formats.short(value, "B") for value in (0, 999, 1500, 123_456, 1.4e10)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "123 kB",
        "14.0 GB",
    ]
    assert [formats.rate(value) for value in (0.5, 12.34, 1234.5, None)] == ["0.50", "12.3", "1,234", "–"]
    assert formats.ranges([0, 1, 2, 5]) == "0-2+5"


def test_accuracies_of_kinds_of_questions_are_called_as_that_of_all() -> None:
    names = [formats.metric_name(key) for key in ("vqa_accuracy", "vqa_accuracy_macro", "vqa_accuracy_yes_no")]
    assert names == ["VQA accuracy", "VQA accuracy, macro", "VQA accuracy, yes no"]


def test_skipped_samples_are_counted_and_named() -> None:
    [note] = notes.caveats(result(skipped=["a", "b", "c", "d"]))
    assert note == "4 unreadable, left out: a, b, c and 1 more"


def test_no_change_on_100_samples_is_not_shown_to_keep_the_quality() -> None:
    """Up to 3 % of all samples may still change there; from 200 samples on no more than the 1.5 points that count as kept."""
    assert verdicts.judge(0.0, [0.0, 0.0], 100) == "unclear"
    assert verdicts.judge(0.0, [0.0, 0.0], 199) == "unclear"
    assert verdicts.judge(0.0, [0.0, 0.0], 200) == "keeps"


def test_an_agreement_of_all_of_a_few_samples_says_what_it_cannot_see() -> None:
    [note] = notes.remarks(result(samples=10, fidelity={"agreement": 100.0, "agreement_ci": [100.0, 100.0]}))
    assert "(agreement with full): none of 10 samples changed there; up to 30 % of all samples" in note


def test_an_interval_without_width_says_what_it_cannot_see() -> None:
    unmoved = {"full": 100.0, "variant": 100.0, "delta": 0.0, "ci": [0.0, 0.0]}
    unmoved_only = result(samples=500, metrics={"t2i_r1": unmoved})
    [note] = notes.remarks(unmoved_only)
    assert notes.caveats(unmoved_only) == []  # nothing is wrong: no warning
    assert "none of 500 samples changed there; up to 0.6 % of all samples" in note
    assert notes.remarks(result(samples=500, metrics={"t2i_r1": unmoved | {"ci": [-0.2, 0.0]}})) == []


def test_an_interval_without_width_is_told_of_its_own_figure_where_others_moved() -> None:
    """Answers may go from wrong to wrong, and one direction of retrieval change where the other stays."""
    still, moved = ({"full": 5.0, "variant": 5.0, "delta": 0.0, "ci": ends} for ends in ([0.0, 0.0], [-3.0, 6.0]))
    [note] = notes.remarks(result(samples=20, metrics={"t2i_r1": moved, "i2t_r1": still}))
    assert note.startswith("an interval without width (image-to-text R@1): none of 20 samples changed there")
    same = {"agreement": 100.0, "agreement_ci": [100.0, 100.0]}
    [note] = notes.remarks(result(samples=20, metrics={"top1": moved}, fidelity=same))
    assert note.startswith("an interval without width (agreement with full): ")
    [note] = notes.remarks(result(samples=20, metrics={"top1": still}, fidelity=same))
    assert note.startswith("an interval without width (top-1; agreement with full): ")


def test_figures_that_stand_still_in_unlike_many_samples_have_a_line_each() -> None:
    still = {"top1": {"full": 5.0, "variant": 5.0, "delta": 0.0, "ci": [0.0, 0.0]}}
    same = {"agreement": 100.0, "agreement_ci": [100.0, 100.0]}
    both, one = result(samples=20, metrics=still, fidelity=same), result(samples=300, metrics=still)
    assert [note.partition("; ")[0] for note in notes.remarks(both, one)] == [
        "an interval without width (top-1): none of 20 to 300 samples changed there",
        "an interval without width (agreement with full): none of 20 samples changed there",
    ]


def test_ceiling_is_the_inverse_of_the_share_that_would_remain() -> None:
    assert words.ceiling(result(cost={"floor": 0.8})) == pytest.approx(1.25)
    assert words.ceiling(result(cost={"floor": {"median": 0.5}})) == pytest.approx(2.0)
    assert words.ceiling(result(cost={})) is None


def test_what_the_tokens_do_is_a_finding_and_no_loss() -> None:
    counts = {"full": 3.86, "variant": 0.0, "delta": -3.86, "ci": [-4.0, -3.7]}
    made = result(task="tokens", attn="exact", mask="both", mask_blocks=[11], metrics={"massive_per_image": counts}, cost={})
    assert (
        words.plain(words.headline(made)).partition(": ")[2]
        == "Mask both in block 11 has 0.00 massive tokens an image, full has 3.86."
    )
    assert verdicts.tone("massive_per_image", counts) == "even"


def test_what_nobody_counted_is_left_out_and_not_called_none() -> None:
    """Texts have no size in pixels, and images of any size no number of tokens that all share."""
    text = Model(
        "texts",
        nn.Identity(),
        Weights("file", "", "texts"),
        None,
        (0, 0),
        Tokens(0),
        4,
        torch.device("cpu"),
        torch.float32,  # type: ignore[arg-type]
    )
    assert text.told_tokens is None
    assert replace(text, tokens=Tokens(1)).told_tokens is None
    assert replace(text, tokens=Tokens(1, grid=(2, 3))).told_tokens == 7
    pieces = words.compared(result(image_size=None, tokens=text.told_tokens))
    assert not [piece for piece in pieces if piece.endswith((" px", " tokens"))]


def test_auto_that_picks_nothing_claims_nothing() -> None:
    made = result(landmarks="auto", layers=[11], auto={"landmarks": {}}, cost=speed(0.98, 0.97, 0.99), metrics=metric(0, 0, 0))
    assert notes.caveats(made) == []
    assert words.plain(words.headline(made)).partition(": ")[2] == "No block was worth it: full attention everywhere."
    assert words.judge_speed(made) == "even"


BUSY = {"quiet": False, "reasons": ["other processes took 1.0 of 2 cores while 2 were needed"]}


def test_a_busy_machine_has_no_speed() -> None:
    made = result(cost=speed(0.91, 0.89, 0.95) | {"measurement": BUSY})
    said = words.plain(words.headline(made))
    assert said.endswith("with no measurement of its speed.")  # which too few rounds are on a quiet machine too
    assert "0.91" not in said
    assert "slower" not in said
    assert words.judge_speed(made) == ""
    assert "no measurement of the speed: other processes took 1.0 of 2 cores" in notes.caveats(made)[0]


def test_no_measurement_of_the_speed_ends_with_what_to_type() -> None:
    """At the command line its knobs, of `fna.compare` its keyword; one beside the other, the table's line says the same."""
    made = result(cost=speed(0.91, 0.89, 0.95) | {"measurement": BUSY})
    rerun = "; run it again when nothing else runs (timing.rounds=6 is enough, finished rows stay), or leave it out: "
    assert notes.caveats(made)[0].endswith(f"{rerun}timing.enabled=false")
    own = notes.caveats(made | {"task": "own"})[0]
    assert own.endswith("; run it again when nothing else runs (rounds=6 is enough), or leave it out: rounds=0")


def test_a_quiet_machine_is_not_mentioned() -> None:
    quiet = result(cost=speed(1.29, 1.27, 1.31) | {"measurement": {"quiet": True, "reasons": []}})
    assert words.unmeasured(quiet) == words.unmeasured(result()) == ""
    assert notes.caveats(quiet) == []
    assert words.judge_speed(quiet) == "good"


def test_agreement_says_what_agrees_and_output_error_what_is_good() -> None:
    (_, agreement), (_, error) = notes.explained(retrieval())
    assert "(image to text)" in agreement
    assert "100 % is the same everywhere" in agreement
    assert "0 is the same, small is good" in error
    assert "same class first" in notes.explained(result())[0][1]
    assert "same answer" in notes.explained(result(task="a task of somebody"))[0][1]
    assert notes.explained(result(fidelity={})) == []


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({}, "FNA"),
        ({"attn": "nystromformer"}, "Nyströmformer"),
        ({"attn": "exact", "mask": "both"}, "mask both"),
        ({"reduce": "tome"}, "FNA and ToMe"),
        ({"attn": "my_method"}, "my_method"),
        ({"attn": None}, "variant"),
    ],
)
def test_the_approximation_is_called_by_its_name(changes: dict[str, object], called: str) -> None:
    assert words.called(result(**changes)) == called


def test_what_auto_decided_is_no_warning() -> None:
    why = ["block 4: 24 landmarks (error 0.080 <= 0.1)"]
    made = result(auto={"landmarks": {"4": 24}, "why": why}, notes=[*why, "the first 20 of 40 pictures"])
    assert notes.caveats(made) == []
    assert notes.told(made) == ["the first 20 of 40 pictures"]


def test_a_result_without_metrics_is_told_by_its_agreement() -> None:
    """Of images without labels nothing is right or wrong."""
    bare = result(metrics={}, task="fidelity")
    said = words.plain(words.headline(bare))
    assert "agrees with full attention on 96.4 % [94.8, 97.9] of the samples, output error 0.042, at 1.19x the speed" in said
    assert "same nearest other image" in notes.explained(bare)[0][1]
    assert "no metrics" in words.plain(words.headline(result(metrics={}, fidelity={})))


def test_a_large_output_error_beside_decisions_that_agree_is_explained_once() -> None:
    """Logits of two classes lie near zero: a probe was 3 off in its outputs and agreed on 93 %."""
    near, far = ({"output_error": error, "agreement": share} for error, share in ((3.0, 93.0), (3.0, 40.0)))
    said = notes.remarks(result(fidelity=near), result(fidelity=near))
    assert [line for line in said if "near zero on some samples" in line] == said
    assert len(said) == 1
    assert not notes.remarks(result(fidelity=far))
    assert not notes.remarks(result())


def test_names_of_metrics_that_hold_commas_are_told_apart() -> None:
    top = {"full": 100.0, "variant": 100.0, "delta": 0.0, "ci": [0.0, 0.0]}
    (said,) = notes.at_ceiling(result(metrics={"vqa_accuracy_yes_no": top, "vqa_accuracy_other": top}))
    assert said.startswith("VQA accuracy, yes no; VQA accuracy, other: 100 on both sides")
