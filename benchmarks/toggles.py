"""What a toggle costs on a ready engine: ``python -m benchmarks.toggles [--requests N] [--runtime NAME]... [--json]``.

For each runtime of the demo that the app loads itself, N times: a request, a toggle, the first request after it, and one
more. A toggle that reloads or rebuilds anything would show in the first request after it; the promise is one request's time
plus 50 ms. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace

import numpy as np

from backend.bundle import DEMO, load_bundle
from backend.health import check_prompts
from backend.pool import Pool, State
from backend.runtimes.base import ForwardOptions, Runtime
from benchmarks.measuring import machine, print_heading, versions

PROMISED_MS = 50.0


@dataclass(frozen=True, slots=True)
class Row:
    """One toggle of one runtime; times in ms."""

    runtime: str
    toggle: str
    n: int
    before_p50: float  # the last request with the old options
    before_p95: float
    first_p50: float  # the first request with the new ones
    first_p95: float
    next_p50: float  # the one after that: what such a request takes anyway
    next_p95: float
    ratio: float  # first to next, medians
    added_p50: float  # first minus next of the same round
    added_p95: float
    loads: int  # runtimes loaded meanwhile


def measure(runtime: Runtime, ids: tuple[int, ...], toggle: str, *, n: int) -> dict[str, float]:
    """Toggle ``n`` times to and fro."""
    old = ForwardOptions()
    new = replace(old, normalize=True) if toggle == "normalize" else replace(old, lora=False)
    times: dict[str, list[float]] = {"before": [], "first": [], "next": []}
    for turn in range(n):
        before, after = (old, new) if turn % 2 == 0 else (new, old)
        for name, options in (("before", before), ("first", after), ("next", after)):
            started = time.perf_counter()
            runtime.forward([ids], options)
            times[name].append(1000 * (time.perf_counter() - started))
    added = [first - again for first, again in zip(times["first"], times["next"], strict=True)]
    found = {f"{name}_p{q}": float(np.percentile(values, q)) for name, values in times.items() for q in (50, 95)}
    ratio = statistics.median(times["first"]) / statistics.median(times["next"])
    return found | {"ratio": ratio, "added_p50": float(np.median(added)), "added_p95": float(np.percentile(added, 95))}


def rows(names: list[str], *, n: int) -> list[Row]:
    """Measure each runtime alone: the others would share its cores."""
    bundle = load_bundle(DEMO)
    ids = check_prompts(bundle, bundle.load_probe().builder)[0]
    found = []
    for spec in bundle.runtimes:
        if spec.urls or (names and spec.name not in names):
            continue
        with Pool() as pool:
            runtime = pool.get(spec)
            for options in (ForwardOptions(norm, lora) for norm in (False, True) for lora in (False, True)):
                runtime.forward([ids], options)  # the first request of a kind warms up
            for toggle in ("normalize", "lora"):
                times = measure(runtime, ids, toggle, n=n)
                still = pool.status(spec).state is State.READY and pool.get(spec) is runtime
                found.append(Row(spec.name, toggle, n, loads=0 if still else 1, **times))
    return found


def main() -> None:
    """Print a table, and whether the promise holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100, metavar="N")
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measured = rows(arguments.runtime, n=arguments.requests)
    if arguments.json:
        report = {"machine": machine(), "versions": versions(), "rows": [asdict(row) for row in measured]}
        print(json.dumps(report, indent=2))
        return
    print_heading("toggles")
    print("times in ms, p50 / p95; added: first request after the toggle minus the next one")
    for row in measured:
        kept = "kept" if row.added_p50 <= PROMISED_MS and not row.loads else "BROKEN"
        print(
            f"{row.runtime:18s} {row.toggle:9s} n {row.n}  before {row.before_p50:.1f} / {row.before_p95:.1f}  "
            f"first {row.first_p50:.1f} / {row.first_p95:.1f}  next {row.next_p50:.1f} / {row.next_p95:.1f}  "
            f"ratio {row.ratio:.2f}  added {row.added_p50:+.1f} / {row.added_p95:+.1f}  loads {row.loads}  {kept}"
        )


if __name__ == "__main__":
    main()
