"""Measures how fast a verdict comes: ``python -m benchmarks.verdict [--examples N] [--candidate NAME] [--no-page]``.

First the backend: each example is diagnosed once, then again with its states cached; the second time counts, once as the
deployment is and once as a faulty one (normalised, LoRA left out). Then the page, in Chromium against a server that has
answered once: from the request to the first contentful paint, to the title, and to the verdict, each time with another
example of a stored run in a new session. Exit code 3 where a 95th percentile misses its target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.bundle import DEMO, Bundle, load_bundle
from backend.diagnose_request import Request, run_request
from backend.evaluation import Plan, begin, carry_on
from backend.pool import Pool
from backend.probe import Probe
from backend.scoring import load_examples
from backend.state_cache import StateCache
from backend.store import Store
from benchmarks.measuring import print_heading
from tests.browser.serving import launch, serve

_VERDICT_MS, _PAINT_MS = 200.0, 1000.0

FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')"


def measure_verdicts(bundle: Bundle, probe: Probe, pool: Pool, candidate: str, n: int) -> dict[str, list[float]]:
    """Return milliseconds of the second diagnosis of each example."""
    plain = Request(bundle.runtimes[0], bundle.runtime(candidate))
    cache = StateCache()
    prompts = load_examples(bundle, probe.builder, limit=n)[1]
    taken: dict[str, list[float]] = {}
    for name, request in (("as it is", plain), ("normalised, LoRA off", replace(plain, normalize=True, lora=False))):
        for _ in range(2):
            taken[f"verdict, {candidate} {name}"] = times = []
            for prompt in prompts:
                started = time.perf_counter()
                run_request(bundle, probe, pool, prompt, request, cache=cache)
                times.append((time.perf_counter() - started) * 1000)
    return taken


def measure_page(bundle: Bundle, pool: Pool, n: int) -> dict[str, list[float]]:
    """Return milliseconds to paint, title and verdict of the Diagnose page."""
    from playwright.sync_api import sync_playwright

    taken: dict[str, list[float]] = {name: [] for name in ("first contentful paint", "title", "verdict on the page")}
    with tempfile.TemporaryDirectory() as folder:
        run, examples = _stored(bundle, pool, Path(folder), n)
        with serve(Path(folder)) as url, sync_playwright() as playwright:
            browser = launch(playwright)
            for place, example in enumerate([examples[0], *examples]):
                page = browser.new_context().new_page()
                started = time.perf_counter()
                page.goto(f"{url}/Diagnose?run={run}&example={example}&normalize=true")
                page.get_by_role("heading", name="Diagnose").wait_for(timeout=120_000)
                title = time.perf_counter()
                page.get_by_text("This deployment").first.wait_for(timeout=120_000)
                verdict = time.perf_counter()
                page.wait_for_function(f"{FIRST_PAINT}.length")  # noted after the frame, which a busy machine delays
                paint = page.evaluate(f"{FIRST_PAINT}[0].startTime")
                if place:  # the first one loads bundle and runtimes
                    seen = (paint, 1000 * (title - started), 1000 * (verdict - started))
                    for name, value in zip(taken, seen, strict=True):
                        taken[name].append(value)
                page.context.close()
            browser.close()
    return taken


def _stored(bundle: Bundle, pool: Pool, folder: Path, n: int) -> tuple[int, list[str]]:
    assert bundle.dataset is not None
    plan = Plan(bundle, bundle.runtimes[:2], (True,), (False,), dataset=bundle.dataset, limit=n)
    with Store(folder / "runs.sqlite") as store:
        run = begin(store, plan)
        carry_on(store, run, plan, pool.get)
    examples = load_examples(bundle, bundle.load_probe().builder, limit=n)[0]
    return run, [example.id for example in examples]


def main() -> int:
    """Print medians and 95th percentiles against their targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--candidate", default="hf-fp16")
    parser.add_argument("--no-page", action="store_true")
    arguments = parser.parse_args()
    print_heading("verdict")
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    with Pool() as pool:
        taken = measure_verdicts(bundle, probe, pool, arguments.candidate, arguments.examples)
        if not arguments.no_page:
            taken |= measure_page(bundle, pool, min(20, arguments.examples))
    missed = False
    for name, times in taken.items():
        target = _PAINT_MS if name == "first contentful paint" else _VERDICT_MS if name.startswith("verdict,") else None
        middle, high = np.percentile(times, [50, 95])
        missed |= target is not None and high > target
        limit = f", target below {target:.0f}" if target is not None else ""
        print(f"{name}: median {middle:.0f} ms, 95th percentile {high:.0f} ms (n {len(times)}{limit})")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
