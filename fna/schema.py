"""The root knobs of the command line, typed, so that Hydra refuses a typo or a wrong type before torch is loaded."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from fna.values import Landmarks, Limit, Pixels, Positive, Says, between, held, of_length

DTYPES = ("float32", "bfloat16", "float16")
# How tables and other programs call a dtype and a device.
DTYPES_OTHERWISE = {
    "fp32": "float32", "float": "float32", "single": "float32", "f32": "float32", "32": "float32", "no": "float32",
    "bf16": "bfloat16", "bfloat": "bfloat16", "bf16-mixed": "bfloat16",
    "fp16": "float16", "half": "float16", "f16": "float16", "16": "float16", "16-mixed": "float16",
}  # fmt: skip
GPUS = {f"{name}{number}": f"cuda:{number}" for name in ("", "cuda", "gpu", "gpu:") for number in range(8)}
DEVICES_OTHERWISE = {"gpu": "cuda", **GPUS}
DRAWS = 100  # of fewer, a 95 % interval is made of the two or three outermost


LAYERS = re.compile(r"(all|last-half|auto|-?\d+(--?\d+)?)( *, *(all|last-half|-?\d+(--?\d+)?))*")
Blocks = Annotated[str, Limit("", lambda text: LAYERS.fullmatch(text.strip()) is not None)]
DEVICE = re.compile(r"[a-z]+(:\d+)?")


@dataclass
class Timing:
    """How the cost is measured."""

    enabled: bool = True
    rounds: int = 15
    batch_size: int = 8


@dataclass
class Judging:
    """Who judges open answers, and how it is asked (`fna.judge`)."""

    base_url: str | None = None
    model: str | None = None
    key_env: str = "OPENAI_API_KEY"
    swap: bool = True
    samples: int = 1
    temperature: float | None = 0.2
    max_tokens: int = 1024
    limit: str = "max_tokens"
    dry_run: bool = False
    timeout: float = 60.0
    retries: int = 5
    wait: float = 1.0
    at_once: int = 1
    price_in: float | None = None
    price_out: float | None = None
    cache: str = "outputs/judge"


@dataclass
class Knobs:
    """What may be set at the root. Groups are ``Any``: their keys are checked by the constructors that they name."""

    model: Any = MISSING
    dataset: Any = MISSING
    task: Any = MISSING
    attn: Any = MISSING
    sampler: Any = MISSING
    reduce: Any = None
    mask: Any = None
    kv: Any = None
    logger: Any = None
    experiment: Any = None
    versus: list[str] = field(default_factory=list)
    expected: str | None = None
    landmarks: Any = 64
    layers: Any = "last-half"
    tolerance: float = 0.1
    image_size: Any = None
    limit: int | None = None
    batch_size: int = 32
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    strict: bool = False
    workers: Any = 0
    data_cache: bool = False
    bootstrap: int = 2000
    timing: Timing = field(default_factory=Timing)
    judge: Judging = field(default_factory=Judging)
    gallery: int = 4
    rows_dir: str = "outputs/rows"
    retry_failed: bool = False


def _is_plan(plan: dict[Any, Any]) -> bool:
    """Whether ``{0-5: exact, 6-11: fna}`` gives blocks a method each, or ``{auto: [fna_local, fna_plus]}`` leaves that open."""
    if [*plan] == ["auto"]:
        names = plan["auto"]
        return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    blocks = all(LAYERS.fullmatch(str(spec).strip()) for spec in plan)
    return bool(plan) and blocks and all(isinstance(name, str) for name in plan.values())


def register() -> None:
    """Make `Knobs` known to Hydra under the name that ``conf/config.yaml`` lists first."""
    ConfigStore.instance().store(name="knobs", node=Knobs)


# What a root knob takes, by its full name; the types above are what OmegaConf makes of it before that.
ACCEPTED: dict[str, Any] = {
    "landmarks": Annotated[
        Landmarks | Literal["auto"],
        Says("a count from 1 to 1000000, a fraction of the tokens between 0 and 1, or auto", ("auto",)),
    ],
    "layers": Annotated[
        int | Blocks | list[int | Blocks] | Annotated[dict[str, str | list[str]], Limit("", _is_plan)],
        Says(
            'all, last-half, auto, a block, a range with both ends such as "6-11", a list such as "0,3,6-8", a method for each '
            "range, {0-5: exact, 6-11: fna}, or methods to choose from for each block, {auto: [fna_local, fna_plus]}",
            ("all", "last-half", "auto"),
        ),
    ],
    "image_size": Annotated[
        Pixels | Annotated[list[Pixels], of_length(1, 2)] | None,
        Says("pixels up to 16384 (512), rows and columns ([352,480]), or null for the model's own"),
    ],
    "tolerance": Positive,
    "limit": Annotated[int, between(1, 1_000_000_000)] | None,
    "batch_size": Annotated[int, between(1, 65_536)],
    "device": Annotated[
        str,
        Limit("", lambda text: DEVICE.fullmatch(text) is not None and text not in DEVICES_OTHERWISE),
        Says("auto, cpu, cuda or cuda:1", (), (*DEVICES_OTHERWISE.items(),)),
    ],
    "dtype": Annotated[Literal[DTYPES], Says("float32, bfloat16 or float16", (), (*DTYPES_OTHERWISE.items(),))],
    "seed": Annotated[int, between(0, 2**32 - 1)],
    "strict": bool,
    "workers": Annotated[
        Annotated[int, between(0, 1024)] | Literal["auto"], Says("a whole number from 0 to 1024, or auto", ("auto",))
    ],
    "data_cache": bool,
    "bootstrap": Annotated[int, between(DRAWS, 1_000_000)],
    "timing.enabled": bool,
    "timing.rounds": Annotated[int, between(1, 100_000)],
    "timing.batch_size": Annotated[int, between(1, 65_536)],
    "judge.base_url": str | None,
    "judge.model": str | None,
    "judge.key_env": str,
    "judge.swap": bool,
    "judge.samples": Annotated[int, between(1, 100)],
    "judge.temperature": Annotated[float, between(0, 2)] | None,
    "judge.max_tokens": Annotated[int, between(1, 1_000_000)],
    "judge.limit": Literal["max_tokens", "max_completion_tokens"],
    "judge.dry_run": bool,
    "judge.timeout": Positive,
    "judge.retries": Annotated[int, between(0, 50)],
    "judge.wait": Positive,
    "judge.at_once": Annotated[int, between(1, 64)],
    "judge.price_in": Annotated[float, between(0, 1e9)] | None,
    "judge.price_out": Annotated[float, between(0, 1e9)] | None,
    "judge.cache": str,
    "gallery": Annotated[int, between(0, 10_000)],
    "expected": str | None,
    "versus": Annotated[list[str], Says('a list of contenders, \'["attn=fna landmarks=16","attn=exact"]\'')],
    "rows_dir": str,
    "retry_failed": bool,
}


def decoded(text: str) -> Any:
    """What ``${oc.env:COUNT}`` gives, which is text whatever it says, as a number where it reads as one."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def check_knobs(cfg: Any) -> None:
    """Refuse root values that no run could use; write out paths under ``~`` in ``cfg``, and 64.0 as 64. Needs no torch.

    Raises `UserError` with one line: the knob, its value, what is accepted.
    """
    for knob, kind in ACCEPTED.items():
        value = OmegaConf.select(cfg, knob)
        if isinstance(value, str) and "." not in knob and OmegaConf.is_interpolation(cfg, knob):
            value = decoded(value)
            OmegaConf.update(cfg, knob, value)
        fitted = held(kind, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, knob)
        if isinstance(value, str | float) and (fitted != value or type(fitted) is not type(value)):
            OmegaConf.update(cfg, knob, fitted)
