"""The root knobs of the command line, typed, so that Hydra refuses a typo or a wrong type before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from fna.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")
DRAWS = 100  # of fewer, a 95 % interval is made of the two or three outermost


@dataclass
class Timing:
    """How the cost is measured."""

    enabled: bool = True
    rounds: int = 15
    batch_size: int = 8


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
    workers: int = 0
    bootstrap: int = 2000
    timing: Timing = field(default_factory=Timing)
    gallery: int = 4
    rows_dir: str = "outputs/rows"
    retry_failed: bool = False


def register() -> None:
    """Make `Knobs` known to Hydra under the name that ``conf/config.yaml`` lists first."""
    ConfigStore.instance().store(name="knobs", node=Knobs)


def check_knobs(cfg: Any) -> None:
    """Refuse root values that no run could use. Pure Python: runs before torch is imported.

    Raises `UserError` with one line: the knob, its value, what is accepted.
    """
    _check_landmarks(cfg.landmarks)
    _check_image_size(cfg.image_size)
    least = {"batch_size": 1, "bootstrap": DRAWS, "timing.rounds": 1, "timing.batch_size": 1, "seed": 0, "workers": 0, "gallery": 0}
    for knob, low in least.items():
        value = OmegaConf.select(cfg, knob)
        if not isinstance(value, int) or value < low:
            raise UserError(f"{knob}={value}: must be a whole number of at least {low}.")
    if cfg.limit is not None and cfg.limit < 1:
        raise UserError(f"limit={cfg.limit}: must be at least 1, or null for all samples.")
    if cfg.tolerance <= 0:
        raise UserError(f"tolerance={cfg.tolerance}: must be above 0.")
    if cfg.dtype not in DTYPES:
        raise UserError(f"dtype={cfg.dtype}: choose one of {', '.join(DTYPES)}.")


def _check_landmarks(value: Any) -> None:
    if value == "auto":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 < value < 1 or (value >= 1 and float(value).is_integer())):
        raise UserError(f"landmarks={value}: give a count of at least 1, a fraction of the tokens between 0 and 1, or auto.")


def _check_image_size(value: Any) -> None:
    sizes = [value] if isinstance(value, int | str) or value is None else list(value)
    if len(sizes) not in (1, 2) or not all(size is None or (isinstance(size, int) and size > 0) for size in sizes):
        raise UserError(f"image_size={value}: give pixels (512), rows and columns ([352,480]), or null for the model's own.")
