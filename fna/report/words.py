"""Results in plain words: the sentences that head a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fna.report import formats
from fna.report.results import Result, dig, interval, number, overrides, reference
from fna.report.verdicts import is_error, nothing_right, verdict, weakest

ABSORBED = "attention and its projections"  # the stage of an attention that took these over
FEW = ", too few to say more"  # behind the number of samples, where none of them changed
NOISY = 0.2  # width of a speedup's interval above which it says nothing about "the same speed"
ANY_FOLDER = ("hf",)  # models whose option says nothing of the network


class Part(NamedTuple):
    """A piece of a sentence; ``mark`` says what it is about: "" (nothing), "good", "bad" or "even"."""

    text: str
    mark: str = ""


def plain(parts: Sequence[Part]) -> str:
    """The sentence without its marks."""
    return "".join(part.text for part in parts)


def subject(result: Result) -> str:
    """What was put in place of full attention: ``FNA with 64 landmarks in blocks 4-7``; on exact attention the mask or KV policy.

    Where landmarks or blocks were ``auto``, what they came to.
    """
    if is_idle(result):
        return "No block was worth it: full attention everywhere"
    masked = f"mask {result['mask']}" if result.get("mask") not in (None, "none") else ""
    masked += f" in {formats.where(result['mask_blocks'])}" if masked and result.get("mask_blocks") else ""
    if masked and result.get("attn") == "exact":
        return masked[0].upper() + masked[1:]
    if is_policy(result):
        return f"KV policy {result['kv']}"
    text = " over ".join(_methods(result)) or "the variant"  # one thing, of which the verb is
    count = _chosen(result)
    if count is not None and result.get("attn") == "low_rank":
        text = f"attention of rank {count}"
    elif count is not None and result.get("attn") not in ("exact", "full", "none", None):
        kind = f"{formats.share(count, 0)} of the tokens as" if isinstance(count, float) and count < 1 else str(count)
        text += f" with {kind} landmark{'' if count == 1 else 's'}"
    if plan := _planned(result):
        one = len({method for _, method in plan}) == 1  # said above
        text += f" in {formats.where(', '.join(blocks for blocks, _ in plan))}" if one else f" in blocks {result['plan']}"
    elif result.get("layers"):  # exact attention of a language model is in none
        text += f" in {formats.where(result['layers'])}"
    text += f", {masked}," if masked else ""
    return text[0].upper() + text[1:]


def called(result: Result) -> str:
    """The approximation in one or two words, as the head of a column: ``FNA``, ``mask both``, ``FNA and ToMe``."""
    masked = result.get("mask") not in (None, "none")
    if masked and result.get("attn") == "exact":
        return f"mask {result['mask']}"
    if is_policy(result):
        return f"kv {result['kv']}"
    return " and ".join(_methods(result)) or "variant"


def _methods(result: Result) -> list[str]:
    """``FNA``, ``ToMe``; a plan is called by the attention that it gives to all its blocks, or by none of several. Beside a reducer
    exact attention is no method: the reducer is what is compared."""
    named = {key: formats.name(result[key]) for key in ("attn", "reduce") if result.get(key) not in (None, "none")}
    planned = {method for _, method in _planned(result)}
    if planned:
        named["attn"] = formats.name(planned.pop()) if len(planned) == 1 else "plan"
    elif "reduce" in named and result.get("attn") == "exact":
        del named["attn"]
    return list(named.values())


def _planned(result: Result) -> list[tuple[str, str]]:
    """The blocks and the method of each part of a plan, ``0-3: fna_local, 4-7: fna_plus``."""
    parts = [part.rpartition(": ") for part in str(result.get("plan") or "").split(", ")]
    return [(blocks, method) for blocks, colon, method in parts if colon]


def is_policy(result: Result) -> bool:
    """Whether a KV policy is all that was compared: then no attention was swapped, and none was sampled for."""
    return result.get("kv") not in (None, "none") and result.get("attn") == "exact"


def place(result: Result) -> str:
    """Which model on which data: ``clip_shapes on shapes``; "" where a result says neither."""
    return " on ".join(filter(None, [model(result), str(result.get("dataset") or "")]))


def model(result: Result) -> str:
    """How the model is called: by the name that was typed, or its option; of one that runs any folder, by the folder too."""
    if named := overrides(result).get("model.name"):
        return Path(str(named)).name
    option, source = str(result.get("model") or ""), str(result.get("checkpoint") or "")
    return f"{option} {Path(source).name}" if option in ANY_FOLDER and source and not is_random(result) else option


def is_idle(result: Result) -> bool:
    """Whether ``auto`` found no block worth it, so that full attention was compared with itself."""
    return {} in (dig(result, "auto", "landmarks"), dig(result, "auto", "methods"))


def _chosen(result: Result) -> Any:
    """The number of landmarks; of ``auto`` the one that it came to in all blocks, or ``24 to 128``."""
    counts = (dig(result, "auto", "landmarks") or {}).values()
    return formats.extent(counts) if len(set(counts)) > 1 else next(iter(counts), result.get("landmarks"))


def judge_speed(result: Result) -> str:
    """ "good", "bad" or "even": faster, slower, or neither beyond the noise, as full attention is beside itself.

    "" where the machine was busy: then nothing can be said.
    """
    if unmeasured(result):
        return ""
    pair = interval(dig(result, "cost", "speedup", "ci"))
    return "even" if pair is None or is_idle(result) or pair[0] <= 1 <= pair[1] else "good" if pair[0] > 1 else "bad"


def unmeasured(result: Result) -> str:
    """Why the speedup is no measurement; "" where it is one, or where there is none."""
    tree = dig(result, "cost", "measurement")
    return "" if dig(tree, "quiet") is not False else "; ".join(map(str, tree.get("reasons") or ["the machine was busy"]))


def timed(text: str, result: Result) -> str:
    """A figure that came of the timing: in brackets where that was no measurement."""
    return f"({text})" if unmeasured(result) and text not in ("", formats.NOTHING) else text


def headline(result: Result, extra: str = "") -> list[Part]:
    """The result in one sentence, as pieces; ``extra`` goes into brackets after what was compared."""
    key = weakest(result)
    where = place(result)
    who = (f"{where}: " if where else "") + subject(result) + (f" ({extra})" if extra else "")
    if result.get("status") == "unfinished":  # nothing is known of it but its words, which the command repeats
        return [Part(f"A run was {result.get('error')}")]
    if key is None and not _agrees(result):
        return [Part(f"{who}: {result.get('error') or 'no metrics'}")]
    if is_idle(result):
        return [Part(f"{who}.")]
    doubt = [Part("Random weights, only the pipeline counts. ")] if is_random(result) else []
    speed = _speed(result)
    if key is None:  # nothing was right or wrong, so that nearness is all there is
        return [*doubt, Part(who + " "), *_agrees(result), *([Part(",")] if speed else []), *speed, Part(".")]
    link = [Part(",")] if speed and verdict(result) != "keeps" else []
    return [*doubt, Part(who + " "), *_quality(result, key), *link, *speed, Part(".")]


def _agrees(result: Result) -> list[Part]:
    """How often the answer stays, where that was measured."""
    share, ends = number(dig(result, "fidelity", "agreement")), dig(result, "fidelity", "agreement_ci")
    if share is None:
        return []
    error = number(dig(result, "fidelity", "output_error"))
    told = f" of the samples, output error {formats.fixed(error, 3)}" if error is not None else " of the samples"
    size = f"{formats.agreement(share)} {formats.limits(ends, 1)}".strip()
    return [Part("agrees with full attention on "), Part(size, "even"), Part(told)]


def _quality(result: Result, key: str) -> list[Part]:
    metric = dig(result, "metrics", key)
    delta, ci, called = number(dig(metric, "delta")), dig(metric, "ci"), formats.metric_name(key)
    if key in formats.FINDINGS:
        full, variant = (formats.fixed(dig(metric, side)) for side in ("full", "variant"))
        return [Part("has "), Part(variant, "even"), Part(f" {called}, full has {full}")]
    on = f"{formats.value_of('samples', result.get('samples'))} samples"
    if nothing_right(result):
        none = "nothing right"
        return [Part(f"cannot be judged by {called}: full attention gets "), Part(none, "even"), Part(f" on these {on} either")]
    said, (change, span) = verdict(result), formats.change(delta, ci)
    amount = f"{change} {span} points" if interval(ci) else f"{change} points"
    if said == "keeps":
        return [Part(f"keeps {called} within "), Part(amount, "even")]
    if said == "unclear" and interval(ci) == (0, 0):  # of so few samples, see `judge`
        return [Part(f"leaves {called} "), Part("as it is", "even"), Part(f" on {on}{FEW}")]
    if said == "unclear":
        doubt = f", not told apart from zero on {on}" if interval(ci) else ""
        return [Part(f"changes {called} by "), Part(amount, "even"), Part(doubt)]
    tone = "good" if said == "gains" else "bad"
    if is_error(key, metric):
        way = "better" if said == "gains" else "worse"
        return [Part(f"changes {called} for the {way}, by "), Part(amount, tone)]
    ends = sorted(abs(end) for end in interval(ci) or ())  # both of one sign, which the verb says
    size = " ".join(text.replace("+", "") for text in formats.change(abs(delta or 0), ends))
    return [Part(f"{said} "), Part(f"{size} points", tone), Part(f" of {called}")]


def _speed(result: Result) -> list[Part]:
    median = number(dig(result, "cost", "speedup", "median"))
    if median is None:
        return []
    if unmeasured(result):
        return [Part(" with no measurement of its speed")]
    mark, against = judge_speed(result), f" the speed of {reference(result)} attention"
    ends = interval(dig(result, "cost", "speedup", "ci"))
    if ends is not None and mark == "even" and ends[1] - ends[0] > NOISY:
        return [
            Part(" at "),
            Part(f"{formats.times(median)} {formats.limits(ends)}", "even"),
            Part(f"{against}, too noisy to tell"),
        ]
    if mark == "even":
        return [Part(" at the same speed within the noise ("), Part(formats.times(median), "even"), Part(")")]
    return [Part(" at " if mark == "good" else " and is slower: "), Part(formats.times(median), mark), Part(against)]


def compared(result: Result) -> list[str]:
    """What was compared on what, as the short pieces of a line."""
    data = "/".join(str(result[key]) for key in ("dataset", "split") if result.get(key) not in (None, "", "none", "unknown"))
    amounts = [(result.get("samples"), "samples"), (result.get("image_size"), "px"), (result.get("tokens"), "tokens")]
    task = result.get("task")
    pieces = [f"model {model(result)}" if result.get("model") else "", data, str(task) if task not in (None, "own") else ""]
    pieces += [f"{formats.value_of('', amount)} {unit}" for amount, unit in amounts if amount is not None]
    if result.get("sampler") not in (None, "none") and not result.get("plan"):
        pieces.append(f"sampler {formats.value_of('sampler', result['sampler'])}")
    pieces += [str(result["dtype"])] if result.get("dtype") else []
    pieces += [machine(result)] if result.get("device") else []
    return [piece for piece in [*pieces, f"seed {result['seed']}" if "seed" in result else ""] if piece]


def machine(result: Result) -> str:
    """The device with the processor's name: ``cpu (AMD EPYC)``."""
    kind = str(result["device"])
    named = dig(result, "environment", "gpu" if kind.startswith("cuda") else "cpu")
    return f"{kind} ({named})" if named else kind


def is_random(result: Result) -> bool:
    """Whether the weights are random: then the scores say nothing."""
    return str(result.get("checkpoint") or "").lower().startswith("random")


def floor(result: Result) -> float | None:
    """The share of the time of full attention that would remain if the swapped attention cost nothing."""
    tree = dig(result, "cost", "floor")
    return number(dig(tree, "median") if isinstance(tree, dict) else tree)


def absorbs(result: Result) -> bool:
    """Whether the variant took over the layers round the attention, as a stage of its own says."""
    return ABSORBED in (dig(result, "cost", "stages") or {})


def ceiling(result: Result) -> float | None:
    """The speedup if the swapped attention cost nothing; None where none was swapped."""
    rest = None if is_policy(result) else floor(result)
    return None if not rest else 1 / rest if rest < 1 else rest
