"""The Weights & Biases logger: offline unless asked, one W&B run for each job. The only file that imports wandb."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fna.errors import UserError
from fna.report.page import render_study
from fna.report.pictures import grid_cells
from fna.report.results import Result, Run, flatten, number

if TYPE_CHECKING:
    import wandb

MODES = ("offline", "online", "disabled")
KINDS = {"landmarks": {"index": "landmark"}, "tokens": {"massive": "massive", "artifact": "artifact"}}  # marked in the gallery


@dataclass(frozen=True)
class WandbLogger:
    """Logs metrics, a table, pictures with their tokens marked, and what task=tokens found.

    Offline runs lie in the run folder, as a line on stderr says; ``wandb sync`` sends them later.
    """

    project: str = "fna"
    entity: str | None = None
    group: str | None = None
    mode: Literal["offline", "online", "disabled"] = "offline"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode}: choose one of {', '.join(MODES)}")

    def check(self) -> None:
        """Log in where runs are sent. Raises `UserError` where that fails: before the run, not after it."""
        if self.mode != "online":
            return
        import wandb

        try:
            wandb.login(force=True)
        except wandb.errors.Error as error:
            raise self._refused(error) from None

    def log(self, result: Result, config: dict[str, Any], folder: Path) -> None:
        """One W&B run from start to finish: a job that fails in between leaves no run open for the next."""
        import wandb

        try:
            run = wandb.init(
                project=self.project, entity=self.entity, mode=self.mode, dir=folder, name=_name(result), config=config,
                group=self.group or _sweep(folder), job_type=result.get("task"), reinit="finish_previous", settings=_quiet(),
            )  # fmt: skip
        except wandb.errors.Error as error:
            raise self._refused(error) from None
        try:
            run.log(_content(result, folder))
            run.summary.update({"status": result.get("status"), "hash": result.get("hash")})
        finally:
            run.finish()
        if self.mode == "offline":
            place = Path(run.settings.sync_dir)
            print(f"wandb: kept offline; `wandb sync {place}` sends it", file=sys.stderr)

    def _refused(self, error: Exception) -> UserError:
        reason = str(error).partition("\n")[0].rstrip(".")
        return UserError(f"logger=wandb, mode={self.mode}: {reason}; log in with `wandb login` or use logger.mode=offline.")


def _quiet() -> wandb.Settings:
    import wandb

    return wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
    )


def _name(result: Result) -> str:
    words = [result.get(key) for key in ("model", "attn", "sampler", "landmarks")]
    return "-".join(str(word) for word in words if word not in (None, "none"))


def _sweep(folder: Path) -> str | None:
    """The sweep's folder, known by the file that Hydra leaves in it; a run alone has no group."""
    parent = folder.resolve().parent
    return parent.name if (parent / "multirun.yaml").exists() else None


def _content(result: Result, folder: Path) -> dict[str, Any]:
    import wandb

    row = flatten(result)
    numbers = {key: value for key, value in row.items() if number(value) is not None}
    table = wandb.Table(columns=["what", "value"], data=[[key, str(value)] for key, value in row.items() if value is not None])
    drawn = {f"{section}_drawn": found for section in KINDS if (found := _pictures(folder, section))}
    study = render_study(Run(folder, folder.name, result))
    return numbers | {"result": table} | drawn | ({} if study is None else {"what_the_tokens_do": wandb.Html(study, inject=False)})


def _pictures(folder: Path, section: str) -> list[Any]:
    """The pictures of a section of the gallery, with each of its tokens as a box, which W&B draws itself."""
    import wandb

    path = folder / "gallery.json"
    items = json.loads(path.read_text(encoding="utf-8")).get(section, []) if path.exists() else []
    return [wandb.Image(str(folder / item["image"]), caption=item.get("key"), boxes=_boxes(item, KINDS[section])) for item in items]


def _boxes(item: dict[str, Any], kinds: Mapping[str, str]) -> dict[str, Any] | None:
    """W&B's boxes, one group for each kind of token that the picture has; None where it has none, or no grid."""
    rows, columns = item.get("grid") or (0, 0)
    groups: dict[str, Any] = {}
    for place, (key, kind) in enumerate(kinds.items()):
        boxes = [
            {
                "position": {"minX": c / columns, "maxX": (c + 1) / columns, "minY": r / rows, "maxY": (r + 1) / rows},
                "class_id": place,
            }
            for r, c in grid_cells(item.get(key) or [], item.get("prefix", 0), rows, columns)
        ]
        groups |= {kind: {"box_data": boxes, "class_labels": {place: kind}}} if boxes else {}
    return groups or None
