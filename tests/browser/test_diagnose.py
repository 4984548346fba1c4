"""A link opens a diagnosis with its example and toggles, keys move on, and the cause is named."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import idle, shot


def _tall_shot(page, name):
    """Take all of it: the page scrolls inside itself."""
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 2700})
    expect(page.locator(".st-key-cosine .main-svg").first).to_be_visible(timeout=20_000)
    page.wait_for_timeout(700)
    shot(page, name)


def _link(run, row):
    return f"Diagnose?run={run}&example={row.example}&baseline=hf-bf16&candidate=hf-fp16&normalize=true"


def test_a_link_to_an_example_names_the_cause_and_reopens_in_a_new_session(open_page, stored):
    run, flips = stored
    row = flips[0]
    page = open_page(_link(run, row))
    verdict = page.locator(f".st-key-verdict-{row.slot}")
    expect(verdict).to_contain_text("normalisation on", timeout=90_000)
    expect(page.locator(".st-key-example-text")).to_contain_text(row.utterance)
    expect(page.locator(".st-key-waterfall")).to_contain_text("normalisation")
    _tall_shot(page, "diagnose-run")
    again = open_page(page.url.split("/", 3)[3], dark=True)
    expect(again.locator(f".st-key-verdict-{row.slot}")).to_contain_text("normalisation on", timeout=90_000)
    expect(again.locator(".st-key-example-text")).to_contain_text(row.example)
    _tall_shot(again, "diagnose-run-dark")


def test_j_and_k_move_through_the_run(open_page, stored):
    run, flips = stored
    page = open_page(_link(run, flips[0]))
    text = page.locator(".st-key-example-text")
    expect(text).to_contain_text(flips[0].example, timeout=90_000)
    page.keyboard.press("j" if page.locator(".st-key-example-j button").is_enabled() else "k")
    expect(text).not_to_contain_text(f"example {flips[0].example},", timeout=20_000)
    idle(page)
    moved = page.url
    assert f"example={flips[0].example}&" not in moved and "normalize=true" in moved
    page.keyboard.press("k" if page.locator(".st-key-example-k button").is_enabled() else "j")
    idle(page)


@pytest.mark.parametrize("query", ["run=999999", "run=../../etc", "run=1&example=no-such-example"])
def test_a_bad_link_is_one_message_with_a_way_out(open_page, stored, query):
    page = open_page(f"Diagnose?{query}")
    expect(page.locator("[data-testid=stMain]")).to_contain_text("No " if "etc" not in query else "names no run")
    page.locator(".st-key-paste button").click()
    expect(page.locator(".st-key-utterance")).to_be_visible(timeout=20_000)


def test_the_newest_run_opens_at_its_first_example(open_page, stored):
    page = open_page("Diagnose")
    page.locator(".st-key-newest button").click()
    expect(page.locator(".st-key-example-text")).to_contain_text("example", timeout=60_000)
    expect(page.locator(".st-key-example-k button")).to_be_disabled()
    assert "run=" in page.url


def test_a_pasted_text_names_the_cause(open_page):
    page = open_page("Diagnose?normalize=true", dark=True)
    expect(page.locator(".st-key-verdict-airline")).to_contain_text("normalisation on", timeout=90_000)
    expect(page.locator(".st-key-band")).to_contain_text("flips", timeout=20_000)
    assert "Boston" not in page.url
    _tall_shot(page, "diagnose-dark")


def test_a_healthy_pair_has_no_verdict_on_a_narrow_screen(open_page):
    page = open_page("Diagnose", width=420)
    expect(page.locator("[data-testid=stMain]")).to_contain_text("5 of 5 slots: no difference", timeout=90_000)
    _tall_shot(page, "diagnose-narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
