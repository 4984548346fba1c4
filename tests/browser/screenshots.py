"""Every page, light and dark, on a phone and two screens: ``make screenshots`` writes them to screenshots/."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.serving import ROOT, idle, launch, serve
from ui.frame import PAGES

WIDTHS = (420, 1280, 1920)
TO = ROOT / "screenshots"
IN_DOCS = {"playground-light-1280": "playground.png", "diagnose-dark-1280": "diagnose.png"}
PATHS = {
    "Diagnose": "Diagnose?normalize=true",
    "Evaluate": "Evaluate?evaluation=1",
}


def main():
    """Serve the demo with a small run in its store, and look at everything."""
    TO.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        _fill(store)
        with serve(store) as url, sync_playwright() as playwright:
            browser = launch(playwright)
            for path, title, _ in PAGES:
                address = f"{url}/{PATHS.get(title, Path(path).stem)}" if path != "app.py" else url
                for dark in (False, True):
                    for width in WIDTHS:
                        _take(browser, address, title.lower(), dark=dark, width=width)
            browser.close()
    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for taken, name in IN_DOCS.items():
        shutil.copyfile(TO / f"{taken}.png", images / name)
    print(f"wrote {len(PAGES) * 2 * len(WIDTHS)} pictures to {TO.name}/ and {len(IN_DOCS)} to docs/images/")


def _fill(store):
    command = [sys.executable, "-m", "backend", "evaluate", "--matrix", "--limit", "100"]
    command += ["--runtime", "hf-bf16", "--runtime", "hf-fp16", "--store", str(store / "runs.sqlite")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _take(browser, address, name, *, dark, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page.goto(address)
    idle(page)
    if name == "playground":
        page.wait_for_selector(".lane", timeout=120_000)
    if name == "health":
        page.locator("[class*=st-key-check-] button").first.click()
        page.wait_for_timeout(500)
    idle(page)
    page.wait_for_timeout(1500)  # charts draw after the script has ended
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(6000, max(900, height))})
    page.wait_for_timeout(700)
    page.screenshot(path=TO / f"{name}-{'dark' if dark else 'light'}-{width}.png")
    page.close()


if __name__ == "__main__":
    main()
