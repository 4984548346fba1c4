"""From nothing to the first own prediction: ``python -m benchmarks.first_prediction``, on an idle machine.

What a newcomer does, once: `git clone`, `make run`, type a sentence. The clone is of this checkout's last commit, into a
temporary folder; `make run` makes the environment there, from pip's cache and index as they are. ``--here`` leaves out both
clone and installation, and serves this checkout.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from backend.runtimes.vllm_process import free_port
from benchmarks.measuring import processor
from tests.browser.serving import ROOT, launch, wait_for

SENTENCE = "get me a plane from Oslo to Rome tomorrow"
EXPECTED = {"Oslo", "Rome"}
_FIRST_LOOK_S = 3.0  # the target: something true on screen
_INSTALL_S = 3600  # most that `make run` may take


def main() -> int:
    """Do it, print seconds since the start after each step; 1 where the landing's table took longer than its target."""
    parser = argparse.ArgumentParser(description="Time a newcomer's first prediction.")
    parser.add_argument("--here", action="store_true", help="serve this checkout; no clone, no installation")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, {processor()}, load {os.getloadavg()[0]:.1f}, n = 1")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checkout = ROOT
        if not asked.here:
            checkout = Path(folder) / "probe-parity"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
            _say("command 1, git clone", started)
        return _serve_and_look(checkout, Path(folder), started, here=asked.here)


def _serve_and_look(checkout: Path, folder: Path, started: float, *, here: bool) -> int:
    port = free_port()
    environment = os.environ | {"STREAMLIT_SERVER_PORT": str(port), "PROBE_PARITY_STORE": str(folder)}
    command = [sys.executable, "-m", "streamlit", "run", "app.py"] if here else ["make", "run"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}", process, limit_s=_INSTALL_S)
            _say("command 2, make run: environment made, server up" if not here else "server up", started)
            with sync_playwright() as playwright:
                browser = launch(playwright)
                table_s = _look(browser.new_page(), f"http://127.0.0.1:{port}", started)
                browser.close()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
    return 0 if table_s <= _FIRST_LOOK_S else 1


def _look(page: Page, url: str, started: float) -> float:
    """Open, wait for the table, type, wait for the answer; return the seconds from opening to the table."""
    opened = time.perf_counter()
    page.goto(url)
    page.wait_for_selector(".sheet-results", timeout=60_000)
    table_s = time.perf_counter() - opened
    print(f"  results on the first page {table_s:.1f} s after it was opened (target {_FIRST_LOOK_S:g})")
    box = page.locator(".st-key-utterance textarea")
    box.wait_for(timeout=180_000)
    box.fill(SENTENCE)
    box.press("Control+Enter")
    marks = page.locator(".st-key-lane-hf-bf16 .lane mark")
    deadline = time.perf_counter() + 180
    while not set(marks.all_inner_texts()) >= EXPECTED:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"found {marks.all_inner_texts()}, expected {sorted(EXPECTED)}")
        page.wait_for_timeout(50)
    _say(f"first own prediction, {len(EXPECTED)} spans of {SENTENCE!r}", started)
    return table_s


def _say(what: str, started: float) -> None:
    print(f"{time.perf_counter() - started:7.1f} s  {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
