"""Resident memory while a large dataset streams through an evaluation: ``python -m benchmarks.memory [--rows N] [--json]``.

A JSONL file of N synthetic rows goes through a recorded runtime, the heads and the counting into a store, as
``python -m backend evaluate`` does it. Growth is the largest resident memory minus what it was after a small evaluation,
which loads all libraries. Exit code 1 where it reaches 300 MB.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from backend.bundle import load_bundle
from backend.evaluation import Progress, begin, carry_on
from backend.plan import Plan
from backend.report import make_report
from backend.runtimes.load import load_runtime
from backend.store import Store
from benchmarks.measuring import Report, parser
from benchmarks.synthetic import N_PROMPTS, make_bundle, write_rows

LIMIT_MB = 300
_POINTS = 20  # of the curve


@dataclass(frozen=True, slots=True)
class Result:
    """One soak."""

    rows: int  # stored
    seconds: float
    curve: tuple[tuple[int, float], ...]  # (rows done, resident MB above the start)
    store_mb: float

    @property
    def growth_mb(self) -> float:
        """Largest growth of resident memory."""
        return max(mb for _, mb in self.curve)


def soak(rows: int, folder: Path) -> Result:
    """Evaluate ``rows`` synthetic examples and watch resident memory."""
    bundle = load_bundle(make_bundle(folder / "bundle"))
    runtime = load_runtime(bundle.runtimes[0])
    plan = Plan(bundle, bundle.runtimes, (True,), (False,), folder / "bundle" / "set.jsonl", limit=N_PROMPTS)
    with Store(folder / "warm.sqlite") as store:
        carry_on(store, begin(store, plan), plan, lambda _: runtime)
    write_rows(folder / "rows.jsonl", rows)
    process, started = psutil.Process(), time.monotonic()
    before = process.memory_info().rss
    curve: list[tuple[int, float]] = []
    step = max(1, rows // _POINTS)

    def sample(done: int) -> None:
        curve.append((done, (process.memory_info().rss - before) / 1e6))
        took_s = time.monotonic() - started
        print(f"{done:9,d} rows  {curve[-1][1]:7.1f} MB  {took_s:6.1f} s", file=sys.stderr, flush=True)

    def report(progress: Progress) -> None:
        if progress.done >= len(curve) * step or progress.done == progress.total:
            sample(progress.done)

    with Store(folder / "runs.sqlite") as store:
        run = begin(store, replace(plan, dataset=folder / "rows.jsonl", limit=None))
        sample(0)  # after the whole dataset was checked
        carry_on(store, run, Plan.from_settings(store.run(run).settings), lambda _: runtime, report=report)
        seconds = time.monotonic() - started
        counted = make_report(store, run).cells[0].metrics.n_slots
    return Result(counted, seconds, tuple(curve), (folder / "runs.sqlite").stat().st_size / 1e6)


def main() -> int:
    """Print the curve and the result."""
    known = parser(__doc__)
    known.add_argument("--rows", type=int, default=1_000_000)
    options = known.parse_args()
    torch.set_num_threads(1)  # 32 dimensions: threads only wait for each other
    report = Report("memory", options.json)
    with tempfile.TemporaryDirectory() as folder:
        result = soak(options.rows, Path(folder))
    report.add(
        f"{result.rows:,} rows stored",
        seconds=result.seconds,
        rows_per_s=result.rows / result.seconds,
        store_mb=result.store_mb,
        growth_mb=result.growth_mb,
        limit_mb=LIMIT_MB,
    )
    report.close()
    return int(result.growth_mb >= LIMIT_MB or result.rows != options.rows)


if __name__ == "__main__":
    sys.exit(main())
