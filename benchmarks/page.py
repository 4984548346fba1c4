"""The Evaluate page on a large stored run, in a real browser: ``python -m benchmarks.page [--rows N] [--shots DIR]``.

A run of N stored rows (four runtimes, 16 cells) is written by real evaluations of a synthetic set; then the app is started
and Debian's chromium opens the page. First paint: from navigation until matrix and flips are drawn and the script is idle,
in a session of its own; the first of them finds nothing counted yet. Rerun: from a click on another filter until the
page is idle again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import BrowserContext, Page, sync_playwright

from backend.bundle import load_bundle
from backend.evaluation import begin, carry_on
from backend.plan import Plan
from backend.runtimes.load import load_runtime
from backend.store import Store
from benchmarks.measuring import Report, Timing, parser
from benchmarks.synthetic import make_bundle, write_rows
from tests.browser.serving import idle, launch, serve

FIRST_PAINT_S, RERUN_S = 1.5, 0.3
_CELLS = 16
_COUNTED = """[...document.querySelectorAll('[data-testid=stCaptionContainer]')]
  .map(caption => caption.innerText).find(text => text.includes('near ties'))"""


def make_run(rows: int, folder: Path) -> Path:
    """Evaluate a synthetic set until ``rows`` rows are stored and return the bundle's folder."""
    torch.set_num_threads(1)
    bundle = load_bundle(make_bundle(folder / "bundle", runtimes=("a", "b", "c", "d")))
    write_rows(folder / "rows.jsonl", -(-rows // _CELLS))
    live = {spec: load_runtime(spec) for spec in bundle.runtimes}
    plan = Plan(bundle, bundle.runtimes, (True, False), (False, True), folder / "rows.jsonl")
    with Store(folder / "runs.sqlite") as store:
        carry_on(store, begin(store, plan), plan, live.__getitem__)
    return bundle.folder


def first_paint(browser: BrowserContext, url: str) -> tuple[Page, float]:
    """Open the page in a session of its own; return it with the seconds until it was drawn."""
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(f"{url}/Evaluate")
    page.wait_for_selector(".st-key-matrix canvas", timeout=60_000)
    page.wait_for_selector(".st-key-flips canvas", timeout=60_000)
    idle(page)
    return page, time.perf_counter() - started


def rerun(page: Page, filter_name: str) -> float:
    """Choose another filter of the flips; return the seconds until the page counts others and is idle."""
    button = page.locator(".st-key-show button").filter(has_text=filter_name)
    before = page.evaluate(_COUNTED)  # the button itself changes before the server has heard of it
    started = time.perf_counter()
    button.click()
    page.wait_for_function(f"before => ![undefined, before].includes({_COUNTED})", arg=before, timeout=60_000)
    idle(page)
    return time.perf_counter() - started


def main() -> int:
    """Print medians and say whether they are within the targets."""
    known = parser(__doc__)
    known.add_argument("--rows", type=int, default=100_000)
    known.add_argument("--repeats", type=int, default=5)
    known.add_argument("--shots", type=Path, help="folder for screenshots")
    arguments = known.parse_args()
    report = Report("page", arguments.json)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        bundle = make_run(arguments.rows, folder)
        browser = launch(playwright)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        with serve(folder, {"PROBE_PARITY_BUNDLE": str(bundle)}) as url:
            start = context.new_page()  # somebody who comes from another page: the app's own files are in the cache
            start.goto(url)
            idle(start)
            start.close()
            paints, reruns = [], []
            for number in range(arguments.repeats):
                page, seconds = first_paint(context, url)
                paints.append(seconds)
                reruns += [rerun(page, name) for name in ("Regressions", "All wrong", "Improvements", "Different")]
                if arguments.shots and number == 0:
                    page.screenshot(path=arguments.shots / "large-run.png", full_page=True)
                page.close()
        browser.close()
    what = f"Evaluate, {arguments.rows:,} stored rows"
    painted, redrawn = Timing(tuple(paints)), Timing(tuple(reruns))
    report.add(
        f"{what}, first paint", **painted.figures(), first_session_ms=1000 * paints[0], target_ms=1000 * FIRST_PAINT_S
    )
    report.add(f"{what}, rerun", **redrawn.figures(), target_ms=1000 * RERUN_S)
    report.close()
    return int(painted.median > FIRST_PAINT_S or redrawn.median > RERUN_S)


if __name__ == "__main__":
    sys.exit(main())
