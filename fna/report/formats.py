"""Figures and names as text: what stands in a cell, on an axis, inside a sentence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fna.report.results import IDENTITY, interval, number

NAMES = {
    "fna": "FNA", "fna_plus": "FNA+", "fna_local": "FNA local", "exact": "exact attention", "nystromformer": "Nyströmformer",
    "tome": "ToMe", "pitome": "PiToMe", "tofu": "ToFu", "evit": "EViT", "atc": "ATC", "cubist": "CubistMerge",
    "random_drop": "random dropping", "resize": "a smaller input",
}  # fmt: skip
SHORT = {"exact": "exact"}  # in a column that is headed "attention"
OPTIONS = {  # a method's own sampler, by the word that chooses it
    "SegmentMeans": "segment_means", "KMeans": "kmeans", "DriftingKMeans": "drifting_kmeans",
}  # fmt: skip
FINDINGS = {  # neither good nor bad: what task=tokens saw
    "massive_per_image": "massive tokens an image", "artifact_per_image": "artifact tokens an image",
    "images_with_massive": "images with massive tokens", "cls_on_massive": "CLS attention on massive tokens",
    "cls_on_artifact": "CLS attention on artifact tokens", "largest_norm": "largest patch norm",
    "normal_norm": "norm of normal patches",
}  # fmt: skip
METRICS = FINDINGS | {
    "kv_megabytes": "MB of KV cache", "cider": "CIDEr", "bert_f1": "BERTScore F1",
    "top1": "top-1", "top5": "top-5", "ece": "calibration error",
    "t2i_r1": "text-to-image R@1", "t2i_r5": "text-to-image R@5", "t2i_r10": "text-to-image R@10",
    "i2t_r1": "image-to-text R@1", "i2t_r5": "image-to-text R@5", "i2t_r10": "image-to-text R@10",
    "miou": "mean IoU", "macc": "mean class accuracy", "aacc": "pixel accuracy", "boundary_iou": "boundary IoU",
    "vqa_accuracy": "VQA accuracy", "relative": "score relative to the reference", "judged": "judgements that hold scores",
    "word_f1": "word F1 with the reference",
}  # fmt: skip
FIELDS = {"attn": "attention", "image_size": "image size", "dtype": "precision", "mask_start": "masked from block"}
UNITS = {"image_size": "px"}
NOTHING = "–"
FINEST = 4  # decimals of a difference that is small
DUST = 1e-6


def signed(value: Any, digits: int = 1) -> str:
    """``+0.4``, ``-0.2``; zero has no sign."""
    value = number(value)
    if value is None:
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def change(delta: Any, ci: Any, least: int = 1) -> tuple[str, str]:
    """A difference and its interval with as many decimals, at least so many, as show that none of them is zero which is not."""
    values = [value for value in (number(delta), *(interval(ci) or ())) if value is not None]
    digits = next((digits for digits in range(least, FINEST) if not any(_vanishes(value, digits) for value in values)), FINEST)
    return signed(delta, digits), span(ci, digits)


def _vanishes(value: float, digits: int) -> bool:
    """Whether a number that is not zero, beyond what sums in another order differ by, reads as zero with so many decimals."""
    return abs(value) > DUST and not float(f"{value:.{digits}f}")


def span(value: Any, digits: int = 1) -> str:
    """An interval of differences, ``[-0.8, +0.4]``."""
    pair = interval(value)
    return f"[{signed(pair[0], digits)}, {signed(pair[1], digits)}]" if pair else NOTHING


def limits(value: Any, digits: int = 2, missing: str = NOTHING) -> str:
    """An interval of values that are no differences, ``[1.17, 1.21]``."""
    pair = interval(value)
    return f"[{pair[0]:.{digits}f}, {pair[1]:.{digits}f}]" if pair else missing


def fixed(value: Any, digits: int = 2, unit: str = "") -> str:
    """A number with so many decimals."""
    value = number(value)
    return NOTHING if value is None else f"{value:,.{digits}f}{unit}"


def agreement(value: Any) -> str:
    """A percentage with one decimal, with two where one would round it to all: 100.0 is said of 100 alone."""
    value = number(value)
    return fixed(value, 2 if value is not None and 99.95 <= value < 100 else 1, " %")


def times(value: Any) -> str:
    """A ratio, ``1.19x``."""
    return fixed(value, 2, "x")


def share(value: Any, digits: int = 1) -> str:
    """A fraction in percent."""
    value = number(value)
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def short(value: Any, unit: str = "", base: int = 1000) -> str:
    """A large number with a prefix: ``12.3 G``."""
    value = number(value)
    if value is None:
        return NOTHING
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < base or prefix == "T":
            break
        value /= base
    digits = 0 if value >= 100 or (not prefix and value == int(value)) else 1
    return f"{value:.{digits}f} {prefix}{unit}".rstrip()


def extent(values: Collection[float]) -> str:
    """The smallest and the largest of some numbers, ``24 to 128``; of equal ones the one."""
    ends = [f"{value:,g}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def rate(value: Any) -> str:
    """Images a second, or milliseconds an image, with three figures and no exponent; two below 0.1."""
    value = number(value)
    if value is None:
        return NOTHING
    return f"{value:.2g}" if 0 < value < 0.1 else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def name(value: Any) -> str:
    """How a method, a sampler or a model is called in a sentence."""
    return NAMES.get(str(value), str(value))


def metric_name(key: str) -> str:
    """How a metric is called in a sentence."""
    whole, kind, part = key.partition("vqa_accuracy_")  # of one kind of question
    return METRICS.get(key, f"VQA accuracy, {part.replace('_', ' ')}" if kind and not whole else key.replace("_", " "))


def metric_short(key: str) -> str:
    """How a metric heads a narrow column: ``t2i R@1``."""
    return key.replace("_r", " R@") if key[:3] in ("t2i", "i2t") else metric_name(key)


def field_name(key: str) -> str:
    """How a key of the identity is called as the head of a column."""
    return FIELDS.get(key, key)


def value_of(key: str, value: Any) -> str:
    """A value of the identity in a cell."""
    if value is None or value == "none":
        return NOTHING
    if key == "layers":
        return ranges(value)
    if key in ("attn", "reduce"):
        return SHORT.get(str(value), name(value))
    if key == "sampler":
        return OPTIONS.get(value, value)
    if isinstance(value, list | tuple):
        return "x".join(map(str, value)) if len(set(map(str, value))) > 1 else str(value[0]) if value else NOTHING
    return f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)


def said(key: str, value: Any) -> str:
    """A setting where no head names its key: ``224 px``, ``64 landmarks``, ``blocks 4-7``, ``no mask``, ``attn.steps=3``."""
    if key == "layers":
        return where(value, "+")
    if key not in IDENTITY:
        return f"{key}={value}"
    text = name(value) if key == "attn" else value_of(key, value)
    if value == "none":
        return f"no {field_name(key)}"
    if key in ("landmarks", "samples", "tokens", "image_size"):
        return f"{text} {UNITS.get(key, key)}"
    return f"{field_name(key)} {text}" if key in ("seed", "mask", "mask_start", "reduce", "kv") else text


def ranges(layers: Any, between: str = "+") -> str:
    """``[4, 5, 6, 7, 9]`` as ``4-7+9``: in a cell and a label a comma parts settings. A word stays as it is."""
    if not isinstance(layers, list | tuple):
        return str(layers)
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return between.join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def where(layers: Any, between: str = ", ") -> str:
    """The blocks in a sentence."""
    text = ranges(layers, between)
    blocks = f"block {text}" if text.isdigit() else f"blocks {text}"
    return {"all": "all blocks", "last-half": "the last half of the blocks"}.get(text, blocks if text[:1].isdigit() else text)
