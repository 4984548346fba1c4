"""A real server on a free port and a real browser."""

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.serving import ROOT, idle, launch, serve

SCREENSHOTS = ROOT / "screenshots"


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    """Where the server of the browser tests keeps its runs."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def server(store_folder):
    with serve(store_folder) as url:
        yield url


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        launched = launch(playwright)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, server):
    """Return a function that opens a path and waits until the script has run."""
    pages = []

    def open_it(path="", *, dark=False, width=1400):
        page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme="dark" if dark else "light")
        pages.append(page)
        page.goto(f"{server}/{path}")
        idle(page)
        return page

    yield open_it
    for page in pages:
        page.close()


def shot(page, name):
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
