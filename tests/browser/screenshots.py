"""Every page, light and dark, on a phone and two screens: ``make screenshots`` writes them to screenshots/.

With ``--out FOLDER`` they go elsewhere, and docs/images stays as it is; ``--page Health --width 420`` takes some only.
"""

import argparse
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
    parser = argparse.ArgumentParser(description="Take pictures of every page.")
    parser.add_argument("--out", type=Path, default=TO)
    parser.add_argument("--page", action="append", choices=[title for _, title, _ in PAGES])
    parser.add_argument("--width", action="append", type=int, choices=WIDTHS)
    asked = parser.parse_args()
    titles, widths = asked.page or [title for _, title, _ in PAGES], asked.width or WIDTHS
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        _fill(store)
        with serve(store) as url, sync_playwright() as playwright:
            browser = launch(playwright)
            for path, title, _ in (page for page in PAGES if page[1] in titles):
                address = f"{url}/{PATHS.get(title, Path(path).stem)}" if path != "app.py" else url
                for dark in (False, True):
                    for width in widths:
                        _take(browser, address, asked.out / f"{title.lower()}-{'dark' if dark else 'light'}-{width}.png")
            browser.close()
    print(f"wrote {len(titles) * 2 * len(widths)} pictures to {asked.out.name}/")
    if asked.out == TO:
        images = ROOT / "docs" / "images"
        images.mkdir(parents=True, exist_ok=True)
        for taken, name in IN_DOCS.items():
            shutil.copyfile(TO / f"{taken}.png", images / name)
        print(f"and {len(IN_DOCS)} to docs/images/")


def _fill(store):
    command = [sys.executable, "-m", "backend", "evaluate", "--matrix", "--limit", "100"]
    command += ["--runtime", "hf-bf16", "--runtime", "hf-fp16", "--store", str(store / "runs.sqlite")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _take(browser, address, path):
    name, theme, width = path.stem.split("-")
    width, dark = int(width), theme == "dark"
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
    page.screenshot(path=path)
    page.close()


if __name__ == "__main__":
    main()
