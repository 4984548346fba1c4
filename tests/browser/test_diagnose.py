"""A link opens a diagnosis with its toggles, and names the cause."""

from playwright.sync_api import expect

from tests.browser.conftest import shot


def test_a_link_names_the_cause(open_page):
    page = open_page("Diagnose?candidate-normalize=true", dark=True)
    expect(page.locator(".st-key-verdict-airline")).to_contain_text("normalisation on", timeout=90_000)
    expect(page.locator(".st-key-verdict-airline")).to_contain_text("serve-command")
    assert page.locator(".st-key-verdict-origin").count() == 0
    expect(page.locator(".st-key-band")).to_contain_text("flips")
    shot(page, "diagnose")


def test_a_healthy_pair_has_no_verdict(open_page):
    page = open_page("Diagnose", width=420)
    expect(page.locator("[data-testid=stMain]")).to_contain_text("5 of 5 slots: no difference", timeout=90_000)
    shot(page, "diagnose-narrow")
