"""Every promise at full count, one after the other: ``make soak``, or ``python -m benchmarks.soak [--only WORD]``.

Each row is a command of its own with an exit code of its own; run it alone to see more than its last words. Exit code 1
where one misses its target, or all together take longer than 40 minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import machine

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 40 * 60
_STEP_S = 25 * 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """One figure."""

    figure: str
    target: str
    arguments: tuple[str, ...]  # of python -m
    observed: str  # pattern of the lines to show


STEPS = (
    Step(
        "texts by Hypothesis, and 742 curated",
        "10,000: 0 tracebacks, 0 hangs over 10 s",
        ("benchmarks.texts", "--count", "10000"),
        r"^(faults:|slowest|refused).*",
    ),
    Step(
        "mutated dataset files",
        "2,000: 0 executions, 0 deaths, file and line named",
        ("benchmarks.mutations", "--kind", "datasets", "--count", "2000"),
        r".*mutations.*|^crashes.*",
    ),
    Step(
        "mutated bundle files",
        "2,000: 0 executions, 0 deaths, file named",
        ("benchmarks.mutations", "--kind", "bundles", "--count", "2000"),
        r".*mutations.*|^crashes.*",
    ),
    Step(
        "server faults, 27 kinds",
        "50 each: 0 bad vectors scored",
        ("benchmarks.server_faults", "--count", "50"),
        r".*bad vectors scored",
    ),
    *(
        Step(
            f"kill -9 of the {target}",
            "200: 0 rows lost, 0 doubled, <= 1 batch again, same tables",
            ("benchmarks.kills", "--target", target, "--count", "200", "--seconds", str(_STEP_S), *more),
            r".*kills of.*",
        )
        # a kill of an engine costs a start of vLLM, which is Python on one core
        for target, more in (("worker", ()), ("engine", ("--lanes", "2")), ("app", ()))
    ),
    Step(
        "death and hang noticed, orphans",
        "<= 5 s, <= 60 s, 0 left however it ended",
        ("benchmarks.orphans",),
        r".*orphans \d+.*",
    ),
    Step(
        "sessions x reruns over websockets",
        "50 x 20: 0 cross-talk",
        ("benchmarks.sessions", "--sessions", "50", "--reruns", "20"),
        r"^cross-talk.*|.*reruns in.*",
    ),
    Step(
        "disallowed URL spellings",
        ">= 40: 0 connections",
        ("pytest", "-q", "tests/test_addresses.py"),
        r".*(passed|failed).*",
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one figure."""

    step: Step
    holds: bool
    observed: tuple[str, ...]
    seconds: float


def run(step: Step, *, limit_s: float = _STEP_S) -> Result:
    """Run one command, with all it starts ended when its time is over."""
    started = time.monotonic()
    command = [sys.executable, "-m", *step.arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        printed += f"\nended after {limit_s:.0f} s"
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    shown = [line for line in lines if re.match(step.observed, line)]
    holds = process.returncode == 0
    return Result(step, holds, tuple((shown if holds else [*shown, *lines[-3:]]) or lines[-1:]), time.monotonic() - started)


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    total = sum(result.seconds for result in results)
    rows = ["| figure | target | observed | seconds | |", "|---|---|---|---|---|"]
    for result in results:
        observed = "; ".join(result.observed).replace("|", "\\|")[:400]
        rows.append(
            f"| {result.step.figure} | {result.step.target} | {observed} | {result.seconds:.0f} | "
            f"{'holds' if result.holds else 'MISSED'} |"
        )
    in_time = total <= LIMIT_S
    rows.append(
        f"| all of it | {LIMIT_S // 60} min | {total / 60:.1f} min | {total:.0f} | {'holds' if in_time else 'MISSED'} |"
    )
    return "\n".join(rows)


def main() -> int:
    """Run the steps and print the table; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="figures whose name holds this")
    arguments = parser.parse_args()
    print(f"soak: {machine()}", flush=True)
    results = []
    for step in STEPS:
        if not arguments.only or arguments.only in step.figure:
            results.append(run(step))
            print(f"{results[-1].seconds:5.0f} s  {'holds ' if results[-1].holds else 'MISSED'}  {step.figure}", flush=True)
    print(table(results))
    return int(not results or not all(r.holds for r in results) or sum(r.seconds for r in results) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
