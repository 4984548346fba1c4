"""The Evaluate page on a large stored run, in a real browser: ``python -m benchmarks.page [--rows N] [--shots DIR]``.

A run of N stored rows (four runtimes, 16 cells) is written by real evaluations of a synthetic set; then the app is started
and Debian's chromium opens the page. First paint: from navigation until matrix and flips are drawn and the script is idle,
in a session of its own; the first of them finds nothing counted yet. Rerun: from a click on another filter until the
page is idle again.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import torch
from playwright.sync_api import BrowserContext, Page, sync_playwright

from backend.bundle import load_bundle
from backend.evaluation import begin, carry_on
from backend.plan import Plan
from backend.runtimes.load import load_runtime
from backend.store import Store
from benchmarks.synthetic import make_bundle, write_rows

ROOT = Path(__file__).resolve().parent.parent
FIRST_PAINT_S, RERUN_S = 1.5, 0.3
_CELLS = 16
_IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"


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


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Serve the app over the store and the bundle in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PROBE_PARITY_STORE": str(folder), "PROBE_PARITY_BUNDLE": str(folder / "bundle")}
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(f"{url}/_stcore/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def first_paint(browser: BrowserContext, url: str) -> tuple[Page, float]:
    """Open the page in a session of its own; return it with the seconds until it was drawn."""
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(f"{url}/Evaluate")
    page.wait_for_selector(".st-key-matrix .main-svg", timeout=60_000)
    page.wait_for_selector(".st-key-flips canvas", timeout=60_000)
    page.wait_for_selector(_IDLE, timeout=60_000)
    return page, time.perf_counter() - started


def rerun(page: Page, filter_name: str) -> float:
    """Choose another filter of the flips; return the seconds until the page shows it and is idle."""
    button = page.locator(".st-key-show button").filter(has_text=filter_name)
    started = time.perf_counter()
    button.click()
    page.wait_for_selector(f"{_IDLE} .st-key-show [aria-checked=true]:has-text('{filter_name}')", timeout=60_000)
    page.wait_for_selector(_IDLE, timeout=60_000)
    return time.perf_counter() - started


def main() -> int:
    """Print medians and say whether they are within the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, n = {arguments.rows:,} stored rows")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make_run(arguments.rows, folder)
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        with server(folder) as url:
            start = context.new_page()  # somebody who comes from another page: the app's own files are in the cache
            start.goto(url)
            start.wait_for_selector(_IDLE, timeout=60_000)
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
    print(
        f"first paint: median {statistics.median(paints):.2f} s, first session {paints[0]:.2f} s (target {FIRST_PAINT_S} s)"
    )
    print(f"rerun: median {statistics.median(reruns):.2f} s, largest {max(reruns):.2f} s (target {RERUN_S} s)")
    return int(statistics.median(paints) > FIRST_PAINT_S or statistics.median(reruns) > RERUN_S)


if __name__ == "__main__":
    sys.exit(main())
