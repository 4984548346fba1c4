"""Evaluations in a process of their own, which a closed tab or a restarted app does not end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backend.evaluation import begin
from backend.plan import Plan
from backend.store import Run, Store

_ROOT = Path(__file__).resolve().parent.parent


def start(store_path: Path, plan: Plan) -> int:
    """Check the plan, create its run, start its process and return the run's number; raises as `begin` does."""
    with Store(store_path) as store:
        run = begin(store, plan)
    resume(store_path, run)
    return run


def resume(store_path: Path, run: int) -> None:
    """Start a process that goes on with a run; what goes wrong there is written to the run's message."""
    with Store(store_path) as store:
        store.update(run, state="running", wanted="run", message="", pid=None)
        log = (store_path.parent / f"run-{run}.log").open("ab")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "evaluate", "--store", str(store_path), "--resume", str(run)],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with Store(store_path) as store:
        store.update(run, pid=process.pid)


def is_alive(run: Run) -> bool:
    """Tell whether a run's process is there; a killed one leaves its run resumable."""
    import psutil

    if run.pid is None or run.state != "running":
        return False
    try:
        process = psutil.Process(run.pid)
        return process.status() != psutil.STATUS_ZOMBIE and "evaluate" in process.cmdline()
    except psutil.Error:
        return False
