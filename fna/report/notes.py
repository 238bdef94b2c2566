"""What stands beside the figures: reasons to doubt them, what else is to be known, and what a column means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fna.report import formats
from fna.report.results import Result, dig, number
from fna.report.verdicts import is_error, primary, unseen
from fna.report.words import absorbs, is_idle, is_random, unmeasured
from fna.values import LEAST_ROUNDS

DOUBT = ("scores", "belong together", "random weights")  # in a note that says that the figures mean nothing
UNBOUND = {*formats.FINDINGS, "relative"}  # metrics of which 100 is not the most there is
NAMED = 3  # skipped images that are named
RUN_AS, OTHERWISE_RUN = " is run as ", "; to run it otherwise: "  # in a note of a file that does not say how (fna.models.timm)
LARGE, ALIKE = 1.0, 90.0  # a relative output error, and percent of agreement, that seem to contradict each other
OUTSIZED = (
    "a large output error where decisions agree: the outputs of full are near zero on some samples, as logits of two classes often "
    "are, and any change is large in relation to that; go by the agreement there"
)


def is_doubtful(result: Result) -> bool:
    """Whether a note says that the scores say nothing: random weights, or weights and data of different worlds."""
    return is_random(result) or any(map(_doubts, _notes(result)))


def caveats(*results: Result) -> list[str]:
    """What is wrong, so that a number is not to be believed: random weights, mismatches, warnings, skipped samples, a busy machine.

    Each once, however many results it is about.
    """
    return list(dict.fromkeys(note for result in results for note in _caveats(result)))


def told(*results: Result) -> list[str]:
    """What model, data and task say of themselves, and nothing is wrong with: each once, and of several files that are run alike
    one line."""
    return _run_alike(dict.fromkeys(note for result in results for note in _notes(result) if not _doubts(note)))


def _run_alike(notes: Iterable[str]) -> list[str]:
    """``notes``, those of files that are run in one way as one, and how to run them otherwise said once."""
    files: dict[str, list[str]] = {}
    for note in notes:
        file, runs, how = note.partition(RUN_AS)
        files.setdefault(how if runs else note, []).extend([file] if runs else [])
    lines, known = [], set()
    for how, of in files.items():
        said, otherwise, ways = how.partition(OTHERWISE_RUN)
        lines.append(f"{', '.join(of)}{RUN_AS}{said if ways in known else how}" if of else how)
        known |= {ways} if otherwise else set()
    return lines


def remarks(*results: Result) -> list[str]:
    """What is not wrong but limits what can be said: intervals without width, and of which figures, for others have theirs."""
    counts: dict[str, list[float]] = {}
    for result in results:
        for figure in _unmoved(result) if number(result.get("samples")) else []:
            counts.setdefault(figure, []).append(result["samples"])
    alike: dict[tuple[str, float], list[str]] = {}
    for figure, samples in counts.items():
        alike.setdefault((formats.extent(samples), unseen(min(samples))), []).append(figure)
    return [
        *_outsized(results),
        *(
            f"an interval without width ({'; '.join(figures)}): none of {samples} samples changed there; "
            f"up to {still:.3g} % of all samples may still change (95 %, rule of three)"
            for (samples, still), figures in alike.items()
        ),
    ]


def _outsized(results: Sequence[Result]) -> list[str]:
    """Why outputs may be far off in relation where decisions stay, in a sentence; nothing where none are."""
    both = [[number(dig(result, "fidelity", key)) for key in ("output_error", "agreement")] for result in results]
    large = any((error or 0.0) >= LARGE and (agreement or 0.0) >= ALIKE for error, agreement in both)
    return [OUTSIZED] if large else []


def at_ceiling(result: Result) -> list[str]:
    """Of which metrics full and the variant alike have all that there is to have."""
    rates = {key: metric for key, metric in (result.get("metrics") or {}).items() if not (key in UNBOUND or is_error(key, metric))}
    full = [formats.metric_name(key) for key, metric in rates.items() if dig(metric, "full") == 100 == dig(metric, "variant")]
    return [f"{'; '.join(full)}: 100 on both sides, the most there is, so that nothing is told apart there"] if full else []


def _unmoved(result: Result) -> list[str]:
    """Of which figures no sample's score, or no answer, changed, though something was done to the model."""
    if is_idle(result):
        return []
    still = [formats.metric_name(key) for key in primary(result) if dig(result, "metrics", key, "ci") == [0, 0]]
    return still + ["agreement with full"] * (dig(result, "fidelity", "agreement_ci") == [100, 100])


def _notes(result: Result) -> list[str]:
    decided = dig(result, "auto", "why") or []  # a table of its own
    return [str(note) for note in result.get("notes") or [] if note not in decided]


def _doubts(note: str) -> bool:
    return any(word in note.lower() for word in DOUBT)


def _caveats(result: Result) -> list[str]:
    notes = [note for note in _notes(result) if _doubts(note)]
    if is_random(result) and not any("random" in note.lower() for note in notes):
        notes.insert(0, "random weights: the pipeline runs, the scores mean nothing")
    notes += [str(note) for note in result.get("warnings") or []]
    skipped = [str(item) for item in result.get("skipped") or []]
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        notes.append(f"{len(skipped)} unreadable, left out: {', '.join(skipped[:NAMED])}{more}")
    if busy := dig(result, "auto", "busy"):
        notes.append(f"auto timed its choices while {busy}; empty {_choices(result)} to choose again")
    if why := unmeasured(result):
        notes.append(f"no measurement of the speed: {why}; {again(result)}")
    return notes


def _choices(result: Result) -> str:
    """Where choices of auto are kept; results of earlier versions do not say."""
    kept = dig(result, "auto", "kept")
    return f"the folder {kept}" if kept else "the folder auto beside the rows"


def again(*results: Result) -> str:
    """What to type after a timing that was no measurement: of `fna.compare` its keyword, else the knobs."""
    own = {result.get("task") for result in results} == {"own"}
    rounds, off = ("rounds", "rounds=0") if own else ("timing.rounds", "timing.enabled=false")
    kept = "" if own else ", finished rows stay"
    return f"run it again when nothing else runs ({rounds}={LEAST_ROUNDS} is enough{kept}), or leave it out: {off}"


AGREEMENT = {  # what is decided alike, by task
    "classification": "images with the same class first as with full attention",
    "retrieval": "images for which the same caption comes first as with full attention (image to text)",
    "segmentation": "places in the images with the same class as with full attention",
    "fidelity": "images with the same class first as with full attention (of a model without a head: the same nearest other image)",
    "fidelity_patches": "patches that are most like the same other patch of their image as with full attention",
    "own": "samples with the same class first as with full attention",
    "own_nearest": "samples with the same nearest other sample as with full attention",
    "knn": "images with the same class first as with full attention",
    "probe": "images with the same class first as with full attention",
    "tokens": "images with the same number of massive tokens as with full attention",
}
OTHERWISE = "samples with the same answer as with full attention"
OUTPUTS = {  # what is compared, by task: errors of different outputs are not of one scale
    "classification": "logits",
    "retrieval": "image embeddings",
    "segmentation": "logits",
    "fidelity": "logits, or without a head embeddings",
    "knn": "votes of the neighbours",
    "probe": "logits of the probe",
    "vqa": "how sure the model was of its own answer",
}
OUTPUT_ERROR = (
    "relative output error: how far the outputs{} are from those of full, over their length; 0 is the same, small is good"
)


AT_ONCE = "ms first token, ms further token: of {} prompts answered at once, which wait for each other (timing.batch_size=1: one)"


SPARED = (
    "operations, limit: here the approximation took over the projections round the attention too (docs/speed.md), and so can pass "
    "the limit of the attention alone; operations are counted as if they had run apart"
)
DECIDED = (
    "decision: by the attention of each block alone, on one batch of images: its output error, which tolerance bounds, and its "
    "speed, timed once for all blocks when the choice was first made; choices are kept beside the rows"
)


def explained(*results: Result) -> list[tuple[str, str]]:
    """(head of a column, what it means): agreement, output error, times of tokens, decisions of auto, where there are any."""
    decided = [("decision", DECIDED)] if any(dig(result, "auto", "why") for result in results) else []
    absorbed = [("operations", SPARED)] if any(map(absorbs, results)) else []
    return [*_fidelity(results), *_tokens(results), *decided, *absorbed]


def _is_nearest(result: Result) -> bool:
    """Whether a module of one's own says no classes, so that agreement is of samples (the notes of fna.tasks.own)."""
    return result.get("task") == "own" and any("agreement is of" in note for note in _notes(result))


def _tokens(results: Sequence[Result]) -> list[tuple[str, str]]:
    timed = [number(dig(result, "cost", "batch_size")) for result in results if dig(result, "cost", "first_token")]
    batches = [size for size in timed if size is not None and size > 1]
    return [("ms first token", AT_ONCE.format(formats.extent(batches)))] if batches else []


def _fidelity(results: Sequence[Result]) -> list[tuple[str, str]]:
    measured = [result for result in results if result.get("fidelity")]
    agreeing = [result for result in measured if number(dig(result, "fidelity", "agreement")) is not None]
    tasks = dict.fromkeys(f"{result.get('task')}{'_nearest' * _is_nearest(result)}" for result in agreeing)
    said = dict.fromkeys(AGREEMENT.get(task) or AGREEMENT.get(task.partition("_")[0], OTHERWISE) for task in tasks)
    erring = [result for result in measured if number(dig(result, "fidelity", "output_error")) is not None]
    lines = [
        ("agreement", f"agreement: share of {what}, right or wrong; 100 % is the same everywhere, high is good") for what in said
    ]
    if not erring:
        return lines
    what = "; ".join(dict.fromkeys(OUTPUTS[task] for task in (str(result.get("task")) for result in erring) if task in OUTPUTS))
    return [*lines, ("output error", OUTPUT_ERROR.format(f" ({what})" if what else ""))]
