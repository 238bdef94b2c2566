"""Results in plain words: numbers, names and the sentences that head a table and a page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from fna.report.results import IDENTITY, Result, dig, interval, number, reference

NAMES = {"fna": "FNA", "exact": "exact attention", "nystromformer": "Nyströmformer", "tome": "ToMe"}
OPTIONS = {"SegmentMeans": "segment_means", "KMeans": "kmeans"}  # a method's own sampler, by the word that chooses it
FINDINGS = {  # neither good nor bad: what task=tokens saw
    "massive_per_image": "massive tokens an image", "artifact_per_image": "artifact tokens an image",
    "images_with_massive": "images with massive tokens", "cls_on_massive": "CLS attention on massive tokens",
    "cls_on_artifact": "CLS attention on artifact tokens", "largest_norm": "largest patch norm",
    "normal_norm": "norm of normal patches",
}  # fmt: skip
METRICS = FINDINGS | {
    "top1": "top-1", "top5": "top-5", "ece": "calibration error",
    "t2i_r1": "text-to-image R@1", "t2i_r5": "text-to-image R@5", "t2i_r10": "text-to-image R@10",
    "i2t_r1": "image-to-text R@1", "i2t_r5": "image-to-text R@5", "i2t_r10": "image-to-text R@10",
    "miou": "mean IoU", "macc": "mean class accuracy", "aacc": "pixel accuracy", "boundary_iou": "boundary IoU",
    "vqa_accuracy": "VQA accuracy",
}  # fmt: skip
FIELDS = {"attn": "attention", "image_size": "image size", "dtype": "precision", "mask_start": "masked from block"}
UNITS = {"image_size": "px"}
ERRORS = frozenset({"ece"})  # metrics of which less is better
PRIMARY = (("t2i_r1", "i2t_r1"), ("top1",), ("miou",), ("vqa_accuracy",))
NOTHING = "–"
FEW = 100  # samples below which an interval of [0, 0] shows nothing: too few could have changed
NOISY = 0.2  # width of a speedup's interval above which it says nothing about "the same speed"
CLOSE = -1.5  # points: an interval that holds zero and does not reach below this lets a headline say "keeps"


class Part(NamedTuple):
    """A piece of a sentence; ``mark`` says what it is about: "" (nothing), "good", "bad" or "even"."""

    text: str
    mark: str = ""


def plain(parts: Sequence[Part]) -> str:
    """The sentence without its marks."""
    return "".join(part.text for part in parts)


def signed(value: Any, digits: int = 1) -> str:
    """``+0.4``, ``-0.2``; zero has no sign."""
    value = number(value)
    if value is None:
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


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
    """Images a second, with three figures."""
    value = number(value)
    return NOTHING if value is None else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def name(value: Any) -> str:
    """How a method, a sampler or a model is called in a sentence."""
    return NAMES.get(str(value), str(value))


def metric_name(key: str) -> str:
    """How a metric is called in a sentence."""
    return METRICS.get(key, key.replace("_", " "))


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
    if key == "sampler":
        return OPTIONS.get(value, value)
    if isinstance(value, list | tuple):
        return "x".join(map(str, value)) if len(set(map(str, value))) > 1 else str(value[0]) if value else NOTHING
    return f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)


def said(key: str, value: Any) -> str:
    """A setting where no head names its key: ``224 px``, ``64 landmarks``, ``blocks 4-7``, ``no mask``, ``attn.steps=3``."""
    if key == "layers":
        return where(value)
    if key not in IDENTITY:
        return f"{key}={value}"
    text = name(value_of(key, value))
    if value == "none":
        return f"no {field_name(key)}"
    if key in ("landmarks", "samples", "tokens", "image_size"):
        return f"{text} {UNITS.get(key, key)}"
    return f"{field_name(key)} {text}" if key in ("seed", "mask", "mask_start", "reduce", "kv") else text


def ranges(layers: Any) -> str:
    """``[4, 5, 6, 7, 9]`` as ``4-7, 9``; a word stays as it is."""
    if not isinstance(layers, list | tuple):
        return str(layers)
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def where(layers: Any) -> str:
    """The blocks in a sentence."""
    text = ranges(layers)
    blocks = f"block {text}" if text.isdigit() else f"blocks {text}"
    return {"all": "all blocks", "last-half": "the last half of the blocks"}.get(text, blocks if text[:1].isdigit() else text)


def subject(result: Result) -> str:
    """What was put in place of full attention: ``FNA with 64 landmarks in blocks 4-7``; of a mask on exact attention, the mask.

    Where landmarks or blocks were ``auto``, what they came to.
    """
    if is_idle(result):
        return "No block was worth it: full attention everywhere"
    masked = f"mask {result['mask']}" if result.get("mask") not in (None, "none") else ""
    masked += f" in {where(result['mask_blocks'])}" if masked and result.get("mask_blocks") else ""
    if masked and result.get("attn") == "exact":
        return masked[0].upper() + masked[1:]
    parts = [name(result.get(key)) for key in ("attn", "reduce") if result.get(key) not in (None, "none")]
    text = " and ".join(parts) or "the variant"
    count = _chosen(result)
    if count is not None and result.get("attn") == "low_rank":
        text = f"attention of rank {count}"
    elif count is not None and result.get("attn") not in ("exact", "full", "none", None):
        kind = f"{share(count, 0)} of the tokens as" if isinstance(count, float) and count < 1 else str(count)
        text += f" with {kind} landmark{'' if count == 1 else 's'}"
    text += f" in {where(result['layers'])}" if result.get("layers") is not None else ""
    text += f", {masked}," if masked else ""
    return text[0].upper() + text[1:]


def is_idle(result: Result) -> bool:
    """Whether ``auto`` found no block worth it, so that full attention was compared with itself."""
    return dig(result, "auto", "landmarks") == {}


def _chosen(result: Result) -> Any:
    """The number of landmarks; of ``auto`` the one that it came to in all blocks, or ``24 to 128``."""
    counts = (dig(result, "auto", "landmarks") or {}).values()
    return extent(counts) if len(set(counts)) > 1 else next(iter(counts), result.get("landmarks"))


def primary(result: Result) -> list[str]:
    """The metrics that stand for the quality of a result."""
    metrics = result.get("metrics") or {}
    for names in PRIMARY:
        if found := [key for key in names if key in metrics]:
            return found
    return list(metrics)[:1]


def weakest(result: Result) -> str | None:
    """The primary metric that lost most: the one a headline has to name."""
    return min(primary(result), key=lambda key: number(dig(result, "metrics", key, "delta")) or 0.0, default=None)


def judge(delta: Any, ci: Any, samples: Any = None) -> str:
    """ "gains", "loses", "keeps" or "unclear": what a difference and its interval allow to be said."""
    pair = interval(ci)
    if number(delta) is None or pair is None:
        return "unclear"
    if pair[0] > 0 or pair[1] < 0:
        return "gains" if pair[0] > 0 else "loses"
    few = number(samples) is not None and samples < FEW
    return "keeps" if pair[0] >= CLOSE and not few else "unclear"


def tone(key: str, metric: Any, even: str = "even") -> str:
    """ "good", "bad" or ``even``: how a metric's difference is coloured; of an error, less is good; a finding is neither."""
    if key in FINDINGS:
        return even
    verdict = judge(dig(metric, "delta"), dig(metric, "ci"))
    good, bad = ("loses", "gains") if key in ERRORS else ("gains", "loses")
    return {good: "good", bad: "bad"}.get(verdict, even)


def judge_speed(result: Result) -> str:
    """ "good", "bad" or "even": faster, slower, or neither beyond the noise, as full attention is beside itself."""
    pair = interval(dig(result, "cost", "speedup", "ci"))
    return "even" if pair is None or is_idle(result) or pair[0] <= 1 <= pair[1] else "good" if pair[0] > 1 else "bad"


def headline(result: Result, extra: str = "") -> list[Part]:
    """The result in one sentence, as pieces; ``extra`` goes into brackets after what was compared."""
    key = weakest(result)
    who = subject(result) + (f" ({extra})" if extra else "")
    if key is None:
        return [Part(f"{who}: {result.get('error') or 'no metrics'}")]
    if is_idle(result):
        return [Part(f"{who}.")]
    doubt = [Part("Random weights, only the pipeline counts: ")] if is_random(result) else []
    speed = _speed(result)
    verdict = judge(dig(result, "metrics", key, "delta"), dig(result, "metrics", key, "ci"), result.get("samples"))
    link = [Part(",")] if speed and verdict != "keeps" else []
    return [*doubt, Part(who + " "), *_quality(result, key), *link, *speed, Part(".")]


def _quality(result: Result, key: str) -> list[Part]:
    metric = dig(result, "metrics", key)
    delta, ci, called = number(dig(metric, "delta")), dig(metric, "ci"), metric_name(key)
    if key in FINDINGS:
        full, variant = (fixed(dig(metric, side)) for side in ("full", "variant"))
        return [Part("has "), Part(variant, "even"), Part(f" {called}, full has {full}")]
    verdict = judge(delta, ci, result.get("samples"))
    amount = f"{signed(delta)} {span(ci)} points" if interval(ci) else f"{signed(delta)} points"
    if verdict == "keeps":
        return [Part(f"keeps {called} within "), Part(amount, "even")]
    if verdict == "unclear":
        doubt = f", not told apart from zero on {value_of('samples', result.get('samples'))} samples" if interval(ci) else ""
        return [Part(f"changes {called} by "), Part(amount, "even"), Part(doubt)]
    return [Part(f"{verdict} {called}: "), Part(amount, "good" if verdict == "gains" else "bad")]


def _speed(result: Result) -> list[Part]:
    median = number(dig(result, "cost", "speedup", "median"))
    if median is None:
        return []
    mark, against = judge_speed(result), f" the speed of {reference(result)} attention"
    ends = interval(dig(result, "cost", "speedup", "ci"))
    if ends is not None and mark == "even" and ends[1] - ends[0] > NOISY:
        return [Part(" at "), Part(f"{times(median)} {limits(ends)}", "even"), Part(f"{against}, too noisy to tell")]
    if mark == "even":
        return [Part(" at the same speed within the noise ("), Part(times(median), "even"), Part(")")]
    return [Part(" at " if mark == "good" else " and is slower: "), Part(times(median), mark), Part(against)]


def compared(result: Result) -> list[str]:
    """What was compared on what, as the short pieces of a line."""
    data = "/".join(str(result[key]) for key in ("dataset", "split") if result.get(key))
    amounts = [(result.get("samples"), "samples"), (result.get("image_size"), "px"), (result.get("tokens"), "tokens")]
    pieces = [f"model {result['model']}" if result.get("model") else "", data, str(result.get("task") or "")]
    pieces += [f"{value_of('', amount)} {unit}" for amount, unit in amounts if amount is not None]
    if result.get("sampler") not in (None, "none"):
        pieces.append(f"sampler {value_of('sampler', result['sampler'])}")
    pieces += [str(result[key]) for key in ("dtype", "device") if result.get(key)]
    return [piece for piece in [*pieces, f"seed {result['seed']}" if "seed" in result else ""] if piece]


def is_random(result: Result) -> bool:
    """Whether the weights are random: then the scores say nothing."""
    return str(result.get("checkpoint") or "").lower().startswith("random")


def is_doubtful(result: Result) -> bool:
    """Whether a note says that the scores say nothing: random weights, or weights and data of different worlds."""
    return is_random(result) or any("scores" in note or "belong together" in note for note in caveats(result))


def caveats(*results: Result) -> list[str]:
    """What a reader must know before believing a number: random weights, mismatches, warnings, skipped or unmoved samples.

    Each note once, however many results it is about.
    """
    notes = [note for result in results for note in _caveats(result)]
    moving = [result for result in results if not is_idle(result)]
    unmoved = [result for result in moving if any(dig(result, "metrics", key, "ci") == [0, 0] for key in primary(result))]
    counts = [samples for result in unmoved if (samples := number(result.get("samples")))]
    if counts:
        unseen = f"up to {min(100, 300 / min(counts)):.3g} % of all samples may still change (95 %, rule of three)"
        notes.append(f"where an interval is [0, 0], the score of none of {extent(counts)} samples changed; {unseen}")
    return list(dict.fromkeys(notes))


def _caveats(result: Result) -> list[str]:
    notes = [str(note) for note in [*(result.get("notes") or []), *(result.get("warnings") or [])]]
    if is_random(result) and not any("random" in note.lower() for note in notes):
        notes.insert(0, "random weights: the pipeline runs, the scores mean nothing")
    skipped = [str(item) for item in result.get("skipped") or []]
    if skipped:
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        notes.append(f"{len(skipped)} unreadable, left out: {', '.join(skipped[:3])}{more}")
    return notes


def ceiling(result: Result) -> float | None:
    """The speedup if the swapped attention cost nothing; ``cost.floor`` is the share of the time that would remain."""
    floor = dig(result, "cost", "floor")
    floor = number(dig(floor, "median") if isinstance(floor, dict) else floor)
    return None if not floor else 1 / floor if floor < 1 else floor
