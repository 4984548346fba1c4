"""Evaluations killed with SIGKILL at random: ``python -m benchmarks.kills [--kills N]``.

A child process evaluates a synthetic set (two recorded runtimes, LoRA on and off, raw and normalised) as
``python -m backend evaluate --resume`` does it; it is killed, and another one goes on, until the run is finished; then the
next run begins, until there were N kills. Half of them strike at a random moment, half inside SQLite's COMMIT. Every
finished run must hold exactly the rows of an uninterrupted one, and a kill may cost one batch computed again. Exit code 1
where that does not hold.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from backend.bundle import load_bundle
from backend.evaluation import begin, carry_on, check_resumable
from backend.plan import Plan
from backend.runtimes.base import RuntimeSpec
from backend.runtimes.recorded import RecordedRuntime
from backend.store import Row, Store
from benchmarks.measuring import print_heading
from benchmarks.synthetic import make_bundle

_COMMITS = 12  # a kill inside COMMIT strikes in one of the child's first ones
_COMMIT_S = 0.003  # and within this time of its beginning
_RANDOM_S = 0.8
_SLOTS = ("destination", "origin", "price")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, from its start to its end."""

    kills: int
    in_commit: int  # of them
    rows: int
    lost: int
    doubled: int
    changed: int  # rows that differ from the uninterrupted run
    repeated: int  # batches computed again


class _Logged(RecordedRuntime):
    """Notes every batch that it computes in a file, which outlives the process."""

    log: Path

    def _forward(self, ids, options):
        if len(ids) > 1 and not options.normalize:  # not the check of normalisation
            with self.log.open("a") as file:
                file.write(f"{self.spec.name} {options.lora} {hash(tuple(map(tuple, ids)))}\n")
        return super()._forward(ids, options)


def evaluate(store_path: Path, log: Path, *, die_in_commit: int | None) -> None:
    """Go on with run 1 of a store; die within COMMIT number ``die_in_commit`` if there is one."""
    with Store(store_path) as store:
        plan = Plan.from_settings(store.run(1).settings)
        check_resumable(store, 1, plan)
        if die_in_commit is not None:
            _die_in_commit(store._db, die_in_commit)
        live = {spec: _logged(spec, log) for spec in plan.specs}
        carry_on(store, 1, plan, live.__getitem__)


def _logged(spec: RuntimeSpec, log: Path) -> _Logged:
    runtime = _Logged.load(spec)
    runtime.log = log
    return runtime


def _die_in_commit(db: sqlite3.Connection, number: int) -> None:
    seen = 0

    def watch(statement: str) -> None:
        nonlocal seen
        seen += statement == "COMMIT"
        if statement == "COMMIT" and seen == number:
            # SQLite lets go of the interpreter lock while it writes, so the timer strikes in the middle of it
            threading.Timer(random.uniform(0, _COMMIT_S), os.kill, (os.getpid(), signal.SIGKILL)).start()

    db.set_trace_callback(watch)


def run_to_the_end(plan: Plan, folder: Path, rng: random.Random, *, most_kills: int) -> tuple[Outcome, list[Row]]:
    """Evaluate with kills until the run is finished, at most ``most_kills`` of them."""
    store_path, log = folder / "killed.sqlite", folder / "batches.log"
    with Store(store_path) as store:
        begin(store, plan)
    kills = in_commit = 0
    fork = multiprocessing.get_context("fork")
    while True:
        commit = rng.randint(1, _COMMITS) if kills < most_kills and rng.random() < 0.5 else None
        child = fork.Process(target=evaluate, args=(store_path, log), kwargs={"die_in_commit": commit})
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
    return Outcome(kills, in_commit, len(found), 0, 0, 0, repeated), found


def compare(expected: list[Row], found: list[Row], outcome: Outcome) -> Outcome:
    """Count what is lost, doubled or changed."""
    want, have = ({(r.runtime, r.normalize, r.lora, r.example, r.slot): r for r in rows} for rows in (expected, found))
    changed = sum(have[key] != row for key, row in want.items() if key in have)
    lost, doubled = len(want.keys() - have.keys()), len(found) - len(have)
    return Outcome(outcome.kills, outcome.in_commit, len(found), lost, doubled, changed, outcome.repeated)


def trial(kills: int, folder: Path, *, seed: int = 0, limit: int | None = None) -> list[Outcome]:
    """Repeat runs until ``kills`` processes were killed; return what each run came to."""
    torch.set_num_threads(1)  # a forked child must not wait for its parent's threads
    bundle = load_bundle(make_bundle(folder / "bundle", runtimes=("a", "b"), slots=_SLOTS))
    dataset = folder / "bundle" / "set.jsonl"
    plan = Plan(bundle, bundle.runtimes, (True, False), (False, True), dataset, limit=limit)
    rng = random.Random(seed)
    (folder / "whole").mkdir()
    _, expected = run_to_the_end(plan, folder / "whole", rng, most_kills=0)
    outcomes: list[Outcome] = []
    while (left := kills - sum(outcome.kills for outcome in outcomes)) > 0:
        place = folder / f"run-{len(outcomes)}"
        place.mkdir()
        outcome, found = run_to_the_end(plan, place, rng, most_kills=left)
        outcomes.append(compare(expected, found, outcome))
    return outcomes


def sound(outcomes: list[Outcome]) -> bool:
    """Tell whether nothing was lost, doubled or changed, and no kill cost more than one batch."""
    return all(not (o.lost or o.doubled or o.changed) and o.repeated <= o.kills for o in outcomes)


def main() -> int:
    """Print one line a run and the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    print_heading("kills")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = trial(arguments.kills, Path(folder), seed=arguments.seed)
    print("run  kills  in COMMIT   rows  lost  doubled  changed  batches computed again")
    for number, o in enumerate(outcomes, start=1):
        print(
            f"{number:3d}  {o.kills:5d}  {o.in_commit:9d}  {o.rows:5d}  {o.lost:4d}  {o.doubled:7d}  {o.changed:7d}"
            f"  {o.repeated:5d}"
        )
    kills, repeated = sum(o.kills for o in outcomes), sum(o.repeated for o in outcomes)
    print(
        f"{kills} kills ({sum(o.in_commit for o in outcomes)} in COMMIT) over {len(outcomes)} runs in "
        f"{time.monotonic() - started:.0f} s: {sum(o.lost for o in outcomes)} rows lost, "
        f"{sum(o.doubled for o in outcomes)} doubled, {sum(o.changed for o in outcomes)} changed, "
        f"{repeated} batches computed again"
    )
    return int(not sound(outcomes))


if __name__ == "__main__":
    sys.exit(main())
