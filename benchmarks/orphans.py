"""What dies, hangs or is ended, and what is left: ``python -m benchmarks.orphans [--skip-app]``.

First a real vLLM server loses its server process, its engine and its worker (SIGKILL) and then hangs (SIGSTOP); noticed is
when the runtime says that it is lost. Then the app, with a vLLM lane that answers, is ended by SIGTERM, SIGINT and SIGKILL,
and its guard by SIGKILL; an orphan is a process of the app's family that still runs 20 s later. Exit code 1 where a death
takes over 5 s, a hang over 60 s, or an orphan is left.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import psutil

from backend.bundle import DEMO, load_bundle
from backend.pool import Pool
from benchmarks.measuring import machine
from benchmarks.sessions import serving
from benchmarks.websocket_client import Session

RUNTIME = "vllm-fp16"
DEATH_S, HANG_S, GONE_S, START_S = 5.0, 60.0, 20.0, 240.0
_LOSSES = {
    "server killed": ("api_server", signal.SIGKILL, DEATH_S),
    "engine killed": ("EngineCore", signal.SIGKILL, DEATH_S),
    "worker killed": ("VLLM::Worker", signal.SIGKILL, DEATH_S),
    "guard killed": ("guard.py", signal.SIGKILL, DEATH_S),
    "engine stopped": ("EngineCore", signal.SIGSTOP, HANG_S),
}
_ENDINGS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGKILL": signal.SIGKILL}


def left_of(family: Sequence[psutil.Process], *, seconds: float = GONE_S) -> list[psutil.Process]:
    """Return the processes that still run after a while."""
    deadline = time.monotonic() + seconds
    while left := [member for member in family if _runs(member)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def losses() -> bool:
    """Take processes from a live server one way after the other; tell whether each was noticed in time."""
    spec, sound = load_bundle(DEMO).runtime(RUNTIME), True
    for name, (wanted, sent, limit_s) in _LOSSES.items():
        with Pool() as pool:
            runtime = pool.get(spec, timeout_s=START_S)
            guard = psutil.Process(runtime.server.guard_pid)
            family = [guard, *guard.children(recursive=True)]
            pid = next(p.pid for p in family if wanted in " ".join([p.name(), *p.cmdline()]) and _fits(p, guard, wanted))
            started = time.monotonic()
            os.kill(pid, sent)
            noticed = runtime.lost.wait(limit_s + 30)
            seconds = time.monotonic() - started
        left = left_of(family)
        sound &= noticed and seconds <= limit_s and not left
        print(f"{name:16s} noticed after {seconds:5.1f} s (target {limit_s:g})  orphans {len(left)}", flush=True)
    return sound


def _fits(process: psutil.Process, guard: psutil.Process, wanted: str) -> bool:
    """The guard's own command line names the server that it starts."""
    return (process == guard) == (wanted == "guard.py")


def endings() -> bool:
    """End the app in every way; tell whether nothing of it was left."""
    sound = True
    for name, sent in _ENDINGS.items():
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
            with Session(url, query=f"runtimes={RUNTIME}") as session:
                deadline = time.monotonic() + START_S
                session.run()
                while 'class="lane"' not in session.html() and time.monotonic() < deadline:
                    time.sleep(0.5)
                    session.run()
                answered = 'class="lane"' in session.html()
            app = next(p for p in psutil.Process().children() if "streamlit" in p.cmdline())
            family = [app, *app.children(recursive=True)]
            app.send_signal(sent)
            left = left_of(family)
        sound &= answered and len(family) > 3 and not left
        print(f"app ended by {name:8s} {len(family)} processes  orphans {len(left)}", flush=True)
    return sound


def main() -> int:
    """Print what was noticed and what was left; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-app", action="store_true", help="only what a server loses")
    arguments = parser.parse_args()
    print(f"orphans: {machine()}", flush=True)
    with mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}):  # with a worker, as on several GPUs
        sound = losses()
    if not arguments.skip_app:
        sound &= endings()
    return int(not sound)


if __name__ == "__main__":
    sys.exit(main())
