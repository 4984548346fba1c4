"""One process of a managed vLLM server killed while it starts or answers an evaluation; see `kills`.

Server and engine core take turns. An evaluation that loses its engine stops with a message and goes on when it is
asked to; the pool starts the server again. The pauses before a restart are cut to a tenth of a second, and after three
restarts the runtime is unloaded and loaded again, as its message says. A kill costs a start of vLLM.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from backend.bundle import DEMO, load_bundle
from backend.errors import BackendError
from backend.evaluation import begin, carry_on
from backend.plan import Plan
from backend.pool import Pool, State
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.store import Row, Store
from benchmarks.kill_outcome import Outcome, compare

_LIMIT = 120  # examples of a run
_START_S = 8.0  # a kill of a server that starts strikes within this time of its start
_ANSWER_S = 1.5  # and one of a server that answers within this time of its being ready
_WHILE_STARTING = 0.7  # of the kills
_ROUNDING = 0.02  # of measured values; a restarted engine may add in another order
_GONE_S = 20.0


def trial(kills: int, folder: Path, *, seed: int = 0, limit: int = _LIMIT, until: float = math.inf) -> list[Outcome]:
    """Repeat runs until there were ``kills`` or it is ``until``; return what each run came to."""
    bundle = load_bundle(DEMO)
    dataset = bundle.dataset
    assert dataset is not None
    plan = Plan(bundle, (bundle.runtime("vllm-fp16"),), (True, False), (False,), dataset, limit=limit)
    rng, outcomes = random.Random(seed), []
    family: set[int] = set()
    with mock.patch("backend.pool.BACKOFF_S", (0.1, 0.1, 0.1)), Pool() as pool:
        expected, _, _ = _evaluate(plan, folder / "whole.sqlite", pool, 0, rng, family, until)
        while (left := kills - sum(o.kills for o in outcomes)) > 0 and time.monotonic() < until:
            path = folder / f"run-{len(outcomes)}.sqlite"
            found, killed, repeated = _evaluate(plan, path, pool, left, rng, family, until)
            outcomes.append(compare(expected, found, Outcome(killed, len(found), repeated=repeated), rounding=_ROUNDING))
    left_over = _wait_gone(family)
    return [*outcomes[:-1], replace(outcomes[-1], orphans=left_over)] if outcomes else outcomes


class _Counted:
    """A runtime that counts the batches it was asked for, those that it lost among them."""

    def __init__(self, pool: Pool, asked: list[int]) -> None:
        self._pool, self._asked = pool, asked

    def get(self, spec: RuntimeSpec) -> Any:
        self._live, self.spec = self._pool.get(spec), spec
        return self

    def forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> Any:
        self._asked.append(len(ids))
        return self._live.forward(ids, options)


def _evaluate(
    plan: Plan, path: Path, pool: Pool, kills: int, rng: random.Random, family: set[int], until: float
) -> tuple[list[Row], int, int]:
    """Evaluate to the end with at most ``kills``; return rows, kills, and batches that were computed again."""
    spec, killed = plan.specs[0], 0
    asked: list[int] = []
    stored: list[object] = []
    state = ""
    with Store(path) as store:
        run = begin(store, plan)
        while state != "finished":
            killer = _Killer(rng, family, lambda: pool.status(spec).state is State.READY)
            if killed < kills and time.monotonic() < until:
                if killer.starting:
                    pool.unload(spec)
                killer.start()
            try:
                state = carry_on(store, run, plan, _Counted(pool, asked).get, report=stored.append)
            except BackendError as error:
                print(f"  stopped at {store.run(run).done} of {store.run(run).total}: {error.what}", file=sys.stderr)
                if pool.status(spec).state is State.FAILED:
                    pool.unload(spec)  # as its message says
            killed += killer.end()
        rows = list(store.rows(run))
    return rows, killed, len(asked) - len(stored)


def _server_pids() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True) if _is_engine(child)]


def _is_engine(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        words = " ".join([process.name(), *process.cmdline()])
        return "guard.py" not in words and any(name in words for name in ("api_server", "EngineCore", "VLLM::"))
    return False


class _Killer(threading.Thread):
    """Kills one process of the server a random while after there is one, or after it is ready."""

    def __init__(self, rng: random.Random, family: set[int], ready: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._ready = ready
        self.starting = rng.random() < _WHILE_STARTING
        self._delay = rng.uniform(0, _START_S if self.starting else _ANSWER_S)
        self._rng, self._family = rng, family
        self._struck, self._done = 0, threading.Event()

    def run(self) -> None:
        """Wait, and kill, unless the run ends before."""
        while not (_server_pids() if self.starting else self._ready()):
            if self._done.wait(0.05):
                return
        if self._done.wait(self._delay):
            return
        family = _server_pids()
        self._family.update(family)
        if family:
            with suppress(ProcessLookupError):
                os.kill(self._rng.choice(family), signal.SIGKILL)
                self._struck = 1

    def end(self) -> int:
        """Keep it from killing any more, and return how many it killed."""
        self._done.set()
        if self.ident is not None:
            self.join()
        return self._struck


def _wait_gone(pids: set[int]) -> int:
    deadline = time.monotonic() + _GONE_S
    while (left := [pid for pid in pids if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return len(left)


def _runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and _is_engine(process)
    return False
