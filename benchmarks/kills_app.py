"""The process that started an evaluation, or looks after one, killed at random; see `kills`.

An app here is a process that makes the Evaluate page's calls: `jobs.start` for a new run, then what the page does each
second (state of the run, whether its process lives, the rows so far), and `jobs.resume` where a run was left without one.
It is killed while it starts a run, and the next ones while they look on; the evaluation, a process of its own, must go on
to the same rows. Apps are forks of this process, which cost no start, and once a run Streamlit itself with a session on the
Evaluate page; evaluations are started as the page starts them.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import time
from contextlib import suppress
from pathlib import Path

import psutil

from backend import jobs
from backend.bundle import load_bundle
from backend.plan import Plan
from backend.store import Row, Store
from benchmarks.kill_outcome import Outcome, compare
from benchmarks.sessions import START_S
from benchmarks.synthetic import make_bundle
from benchmarks.websocket_client import Session
from tests.browser.serving import serve_process

_PER_RUN = 15  # apps that are killed over one run
_START_S = 1.0  # the one that starts it is killed within this time
_LOOK_S = 0.6
_END_S = 300.0  # a run that is not done by then is lost


def trial(kills: int, folder: Path, *, seed: int = 0, limit: int | None = None, until: float = math.inf) -> list[Outcome]:
    """Repeat runs until there were ``kills`` or it is ``until``; return what each run came to."""
    bundle = load_bundle(make_bundle(folder / "bundle", runtimes=("a", "b")))
    assert bundle.dataset is not None
    plan = Plan(bundle, bundle.runtimes, (True, False), (False, True), bundle.dataset, limit=limit)
    whole = folder / "whole" / "runs.sqlite"
    whole.parent.mkdir()
    jobs.start(whole, plan)  # in a process of its own too: how many threads add up a product decides how it is rounded
    _finish(whole)
    with Store(whole) as store:
        expected = list(store.rows(1))
    rng, outcomes = random.Random(seed), []
    while (left := kills - sum(o.kills for o in outcomes)) > 0 and time.monotonic() < until:
        path = folder / f"run-{len(outcomes)}" / "runs.sqlite"
        path.parent.mkdir()
        found, killed = _run(plan, path, min(left, _PER_RUN), rng)
        outcome = Outcome(killed, len(found), orphans=len(_processes(path)))
        outcomes.append(compare(expected, found, outcome))
    return outcomes


def _run(plan: Plan, path: Path, kills: int, rng: random.Random) -> tuple[list[Row], int]:
    fork, killed = multiprocessing.get_context("fork"), 0
    while True:  # a start that was killed before there was a run is made again, as somebody would
        caller = fork.Process(target=_start_and_look, args=(path, plan))
        caller.start()
        time.sleep(rng.uniform(0, _START_S))
        caller.kill()
        caller.join()
        killed += 1
        with Store(path) as store:
            if store.runs():
                break
    if killed < kills:
        _kill_streamlit(path, rng)
        killed += 1
    while killed < kills:
        caller = fork.Process(target=_look, args=(path,))
        caller.start()
        time.sleep(rng.uniform(0, _LOOK_S))
        caller.kill()
        caller.join()
        killed += 1
    _finish(path)
    with Store(path) as store:
        return list(store.rows(1)), killed


def _kill_streamlit(path: Path, rng: random.Random) -> None:
    """Kill the app itself a random while after a session saw the run."""
    with serve_process(path.parent, limit_s=START_S) as (url, process), Session(url, page="Evaluate") as session:
        session.run()
        if session.exceptions():
            raise RuntimeError(session.exceptions()[0])
        time.sleep(rng.uniform(0, _LOOK_S))
        process.kill()


def _start_and_look(path: Path, plan: Plan) -> None:
    jobs.start(path, plan)
    _look(path)


def _look(path: Path) -> None:
    with Store(path) as store:
        while True:
            for run in store.runs():
                if run.state == "running" and not jobs.is_alive(run) and not _processes(path):
                    jobs.resume(path, run.id)
            sum(1 for _ in store.rows(1))
            time.sleep(0.05)


def _finish(path: Path) -> None:
    """Wait for the run's process, or go on with a run that has none, as somebody who comes back would."""
    deadline = time.monotonic() + _END_S
    with Store(path) as store:
        while store.run(1).state != "finished" or _processes(path):
            if time.monotonic() > deadline:
                raise TimeoutError(f"run is {store.run(1).state}: {store.run(1).message}")
            if not _processes(path) and store.run(1).state != "finished":
                jobs.resume(path, 1)
            time.sleep(0.2)


def _processes(path: Path) -> list[int]:
    """Return the live processes that evaluate into a store, and were not forked for this."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if str(path) in words and "evaluate" in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return [pid for pid in found if pid != os.getpid()]
