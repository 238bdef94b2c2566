"""The end of a ``-m`` sweep: one table and one page for all its jobs, and an exit status that tells of failures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Hydra calls this once when all jobs are done.

    Leaves by `SystemExit`: any other exception in a callback becomes a warning and the process would exit 0.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from fna.report.__main__ import report

        folder = Path(config.hydra.sweep.dir)
        results = report(folder)
        failed = [result for result in results if result["status"] != "ok"]
        unlogged = [result for result in results if "unlogged" in result]
        if failed:
            print(f"error: {len(failed)} of {len(results)} jobs failed; the table says which and why.", file=sys.stderr)
        if unlogged:
            print(f"error: {len(unlogged)} of {len(results)} results were not logged: {unlogged[0]['unlogged']}", file=sys.stderr)
        if failed or unlogged:
            raise SystemExit(1)
