"""The Norms page over a pasted text and over a stored run."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import idle, shot


def _tall_shot(page, name):
    """Take all of it: the page scrolls inside itself."""
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 1900})
    expect(page.locator(".st-key-norm-sweep .main-svg").first).to_be_visible(timeout=20_000)
    page.wait_for_timeout(700)
    shot(page, name)


@pytest.mark.parametrize("dark, width", [(False, 1400), (True, 420)], ids=["light-wide", "dark-narrow"])
def test_a_pasted_text(open_page, dark, width):
    page = open_page("Norms", dark=dark, width=width)
    expect(page.locator(".st-key-norm-distributions")).to_contain_text("hf-bf16", timeout=90_000)
    expect(page.locator(".st-key-norm-sweep")).to_contain_text("decisions as on raw states")
    _tall_shot(page, f"norms-{'dark-narrow' if dark else 'light'}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_stored_run(open_page, stored):
    page = open_page("Norms")
    page.locator(".st-key-over button").filter(has_text="Stored run").click()
    idle(page)
    # the chart of before stays beside the new one for a moment
    sweep = page.locator(".st-key-norm-sweep[data-stale=false]")
    expect(sweep.first).to_contain_text("presence accuracy", timeout=90_000)
    _tall_shot(page, "norms-run")
