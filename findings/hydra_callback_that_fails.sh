#!/usr/bin/env bash
# hydra-core 1.3.8: a callback that fails leaves a warning and exit status 0, and the end of a sweep is not called when a job failed.
#
# Expected: a check in `on_multirun_start` ("this folder belongs to another sweep") that raises stops the sweep; a report written in
# `on_multirun_end` is written, or its failure is seen in the exit status; and it is called above all when a job went wrong.
# Seen: any Exception of a callback becomes a warning ("Callback ... raised ...") and the jobs run on, exit status 0. SystemExit is not caught
# and does stop it. After a job that raised, exit status 1, `on_multirun_end` is never called: the sweep with a failure has no report.
# What to do: end a callback that must be heard with SystemExit, and let a job hold its own errors until the sweep is over.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir hydra-core==1.3.8 omegaconf==2.3.1
cd "$room"
cat > app.py <<'PYTHON'
import sys

import hydra
from hydra.core.config_store import ConfigStore
from hydra.experimental.callback import Callback


class Check(Callback):
    def __init__(self, start: str) -> None:
        self.start = start

    def on_multirun_start(self, config, **kwargs) -> None:
        if self.start == "raise":
            raise ValueError("not this folder")
        if self.start == "exit":
            sys.exit(7)

    def on_multirun_end(self, config, **kwargs) -> None:
        print("END OF THE SWEEP", flush=True)


callback = {"check": {"_target_": "__main__.Check", "start": "${start}"}}
ConfigStore.instance().store("config", {"start": "pass", "job": 1, "hydra": {"callbacks": callback, "verbose": False}})


@hydra.main(config_path=None, config_name="config", version_base="1.3")
def main(config) -> None:
    if config.job == 0:
        raise ValueError("this job fails")
    print("JOB DONE", flush=True)


main()
PYTHON

# expect STATUS JOBS ENDS WORDS...: exit status of a sweep, how many jobs were done, how often its end was called
expect() {
    local status=0
    venv/bin/python -I app.py -m "${@:4}" > log 2>&1 || status=$?
    local seen="$status $(grep -c 'JOB DONE' log || true) $(grep -c 'END OF THE SWEEP' log || true)"
    echo "${*:4}: status, jobs done, ends: $seen"
    [ "$seen" = "$1 $2 $3" ] || { echo "changed: expected $1 $2 $3"; cat log; exit 1; }
}
expect 0 2 1 job=1,2
expect 0 2 1 job=1,2 start=raise
grep -q 'raised ValueError' log || { echo "changed: no warning"; cat log; exit 1; }
expect 7 0 0 job=1,2 start=exit
expect 1 1 0 job=1,0
expect 1 1 0 job=0,1
