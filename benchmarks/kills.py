"""Kills with SIGKILL: ``python -m benchmarks.kills --target worker|engine|app [--count N] [--seconds S]``.

worker: the process of an evaluation, at random and inside SQLite's COMMIT. engine: one process of the vLLM server that an
evaluation asks, while it starts or answers. app: the process that started an evaluation or looks after one. Every run must
end with exactly the rows of an undisturbed one; a kill may cost one batch computed again, and at the end no process may be
left. Exit code 1 where that does not hold. Kills stop after ``--seconds``, and the summary says how many there were.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.kill_outcome import Outcome, sound
from benchmarks.measuring import print_heading

_TARGETS = ("worker", "engine", "app")


def lane(target: str, count: int, seed: int, until: float) -> list[Outcome]:
    """Do ``count`` kills in a folder of their own."""
    trial = importlib.import_module(f"benchmarks.kills_{target}").trial
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROBE_PARITY_STORE"] = folder
        outcomes: list[Outcome] = trial(count, Path(folder), seed=seed, until=until)
    return outcomes


def main() -> int:
    """Print one line a run and the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=_TARGETS, default="worker")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600, help="no kill after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=1, help="processes that share the kills; an engine starts on one core")
    arguments = parser.parse_args()
    started = time.monotonic()
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    print_heading("kills")
    print(f"SQLite {sqlite3.sqlite_version}")
    until = started + arguments.seconds
    if arguments.lanes == 1:
        outcomes = lane(arguments.target, arguments.count, arguments.seed, until)
    else:
        with ProcessPoolExecutor(arguments.lanes, mp_context=multiprocessing.get_context("spawn")) as pool:
            shares = [len(range(n, arguments.count, arguments.lanes)) for n in range(arguments.lanes)]
            lanes = [
                pool.submit(lane, arguments.target, count, arguments.seed + n, until) for n, count in enumerate(shares)
            ]
            outcomes = [outcome for each in lanes for outcome in each.result()]
    print("run  kills  in COMMIT   rows  lost  doubled  changed  batches computed again  processes left")
    for number, o in enumerate(outcomes, start=1):
        print(
            f"{number:3d}  {o.kills:5d}  {o.in_commit:9d}  {o.rows:5d}  {o.lost:4d}  {o.doubled:7d}  {o.changed:7d}"
            f"  {o.repeated:22d}  {o.orphans:14d}"
        )
    if not outcomes:
        print("no kill: the time was over before the undisturbed run was done")
        return 1
    total = {name: sum(getattr(o, name) for o in outcomes) for name in type(outcomes[0]).__slots__}
    print(
        f"{arguments.target}: {total['kills']} kills of {arguments.count} asked for ({total['in_commit']} in COMMIT), "
        f"{len(outcomes)} runs, {time.monotonic() - started:.0f} s: {total['lost']} rows lost, {total['doubled']} doubled, "
        f"{total['changed']} changed, {total['repeated']} batches computed again, {total['orphans']} processes left"
    )
    return int(not sound(outcomes))


if __name__ == "__main__":
    sys.exit(main())
