"""How long a newcomer looks at nothing: ``python -m benchmarks.first_look``, on an idle machine.

A fresh server, a fresh browser: seconds from opening the page to the introduction's table, and to the first marked lane.
Then a second browser window on the same server, where everything is imported and loaded.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.measuring import print_heading
from tests.browser.serving import launch, serve

N = 5


def main() -> None:
    """Measure N servers and print medians."""
    cold: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for _ in range(N):
            with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as url:
                cold.append(_look(browser, url))
                warm.append(_look(browser, url))
        browser.close()
    print_heading("first_look")
    print(f"load {os.getloadavg()[0]:.1f}, median (largest) of {N}:")
    for name, times in (("cold", cold), ("warm", warm)):
        shown = [f"{statistics.median(t):.1f} s ({max(t):.1f})" for t in zip(*times, strict=True)]
        print(f"  {name}: table after {shown[0]}, first spans after {shown[1]}")


def _look(browser: Browser, url: str) -> tuple[float, float]:
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("table", timeout=60_000)
    table = time.perf_counter() - started
    page.wait_for_selector(".lane mark", timeout=180_000)
    spans = time.perf_counter() - started
    page.close()
    return table, spans


if __name__ == "__main__":
    main()
