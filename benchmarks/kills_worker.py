"""Evaluations killed with SIGKILL at random, half of them inside SQLite's COMMIT; see `kills`.

A child process evaluates a synthetic set (two recorded runtimes, LoRA on and off, raw and normalised) as
``python -m backend evaluate --resume`` does it; it is killed, and another one goes on, until the run is finished; then the
next run begins. Children are forks of a process that has imported everything and holds tokenizer, heads and recordings, so
that a kill costs a fraction of a second and not the start of Python; each tenth compares the conditions of the run as well,
which reads all files.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from backend.bundle import Bundle, load_bundle
from backend.evaluation import begin, carry_on, check_resumable
from backend.plan import Plan
from backend.runtimes.base import RuntimeSpec
from backend.runtimes.recorded import RecordedRuntime
from backend.store import Row, Store
from benchmarks.kill_outcome import Outcome, compare
from benchmarks.synthetic import make_bundle

_COMMITS = 12  # a kill inside COMMIT strikes in one of the child's first ones
_COMMIT_S = 0.003  # and within this time of its beginning
_RANDOM_S = 0.5
_CHECKED = 0.1  # of the children compare the conditions of the run
_SLOTS = ("destination", "origin", "price")


class _Logged(RecordedRuntime):
    """Notes every batch that it computes in a file, which outlives the process."""

    log: Path

    def _forward(self, ids, options):
        if len(ids) > 1 and not options.normalize:  # not the check of normalisation
            with self.log.open("a") as file:
                file.write(f"{self.spec.name} {options.lora} {hash(tuple(map(tuple, ids)))}\n")
        return super()._forward(ids, options)


def evaluate(
    store_path: Path, log: Path, live: dict[RuntimeSpec, _Logged], *, die_in_commit: int | None, check: bool
) -> None:
    """Go on with run 1 of a store; die within COMMIT number ``die_in_commit`` if there is one."""
    with Store(store_path) as store:
        plan = Plan.from_settings(store.run(1).settings)
        if check:
            check_resumable(store, 1, plan)
        if die_in_commit is not None:
            _die_in_commit(store._db, die_in_commit)
        for runtime in live.values():
            runtime.log = log
        carry_on(store, 1, plan, live.__getitem__)


@contextmanager
def _preloaded(plan: Plan) -> Iterator[dict[RuntimeSpec, _Logged]]:
    """Load once, for all forks, what each evaluation loads."""
    probe = plan.bundle.load_probe()
    with mock.patch.object(Bundle, "load_probe", lambda _: probe):
        yield {spec: _Logged.load(spec) for spec in plan.specs}


def _die_in_commit(db: sqlite3.Connection, number: int) -> None:
    seen = 0

    def watch(statement: str) -> None:
        nonlocal seen
        seen += statement == "COMMIT"
        if statement == "COMMIT" and seen == number:
            # SQLite lets go of the interpreter lock while it writes, so the timer strikes in the middle of it
            threading.Timer(random.uniform(0, _COMMIT_S), os.kill, (os.getpid(), signal.SIGKILL)).start()

    db.set_trace_callback(watch)


def run_to_the_end(
    plan: Plan, live: dict[RuntimeSpec, _Logged], folder: Path, rng: random.Random, *, most_kills: int
) -> tuple[Outcome, list[Row]]:
    """Evaluate with kills until the run is finished, at most ``most_kills`` of them."""
    store_path, log = folder / "killed.sqlite", folder / "batches.log"
    with Store(store_path) as store:
        begin(store, plan)
    kills = in_commit = 0
    fork = multiprocessing.get_context("fork")
    while True:
        commit = rng.randint(1, _COMMITS) if kills < most_kills and rng.random() < 0.5 else None
        more = {"die_in_commit": commit, "check": rng.random() < _CHECKED}
        child = fork.Process(target=evaluate, args=(store_path, log, live), kwargs=more)
        child.start()
        if commit is None and kills < most_kills:
            child.join(rng.uniform(0, _RANDOM_S))
            if child.is_alive():
                child.kill()
        child.join()
        if child.exitcode == 0:
            break
        if child.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"an evaluation ended with {child.exitcode}")
        kills += 1
        in_commit += commit is not None
    batches = log.read_text().splitlines()
    repeated = len(batches) - len(set(batches))
    with Store(store_path) as store:
        found = list(store.rows(1))
    return Outcome(kills, len(found), in_commit=in_commit, repeated=repeated), found


def trial(kills: int, folder: Path, *, seed: int = 0, limit: int | None = None, until: float = math.inf) -> list[Outcome]:
    """Repeat runs until ``kills`` processes were killed or it is ``until``; return what each run came to."""
    torch.set_num_threads(1)  # a forked child must not wait for its parent's threads
    bundle = load_bundle(make_bundle(folder / "bundle", runtimes=("a", "b"), slots=_SLOTS))
    dataset = folder / "bundle" / "set.jsonl"
    plan = Plan(bundle, bundle.runtimes, (True, False), (False, True), dataset, limit=limit)
    rng = random.Random(seed)
    (folder / "whole").mkdir()
    outcomes: list[Outcome] = []
    with _preloaded(plan) as live:
        _, expected = run_to_the_end(plan, live, folder / "whole", rng, most_kills=0)
        while (left := kills - sum(outcome.kills for outcome in outcomes)) > 0 and time.monotonic() < until:
            place = folder / f"run-{len(outcomes)}"
            place.mkdir()
            outcome, found = run_to_the_end(plan, live, place, rng, most_kills=left)
            outcomes.append(compare(expected, found, outcome))
    return outcomes
