"""Somebody types, flips toggles and looks."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import idle, shot


def _marks(page, runtime="hf-bf16"):
    page.wait_for_selector(f".st-key-lane-{runtime} .lane", timeout=90_000)
    return [mark.inner_text() for mark in page.query_selector_all(f".st-key-lane-{runtime} mark")]


def _type(page, text):
    box = page.locator(".st-key-utterance textarea")
    box.fill(text)
    box.press("Control+Enter")
    page.wait_for_timeout(300)
    idle(page)


def _flip(page, key):
    page.locator(f".st-key-{key} label").first.click()
    page.wait_for_timeout(300)
    idle(page)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_type_and_flip_both_toggles(open_page, dark):
    page = open_page(dark=dark)
    assert "Boston" in _marks(page)
    _type(page, "get me a plane from Oslo to Rome tomorrow")
    expect(page.locator(".st-key-lane-hf-bf16 .lane")).to_contain_text("Oslo")
    with_lora = _marks(page)
    assert "Oslo" in with_lora and "Rome" in with_lora
    expect(page.locator(".st-key-lane-hf-bf16 .lane")).not_to_contain_text("passengers")
    shot(page, f"playground-{'dark' if dark else 'light'}")
    _flip(page, "lora")
    expect(page.locator(".st-key-lora")).to_contain_text("LoRA off")
    assert _marks(page) != with_lora
    _flip(page, "lora")
    assert _marks(page) == with_lora
    _flip(page, "normalize")
    expect(page.locator(".st-key-normalize")).to_contain_text("L2 on, mean norm 1.00")
    # slots that were absent are read as present
    expect(page.locator(".st-key-lane-hf-bf16 .lane")).to_contain_text("passengers")
    assert "normalize=true" in page.url and "Oslo" not in page.url


def test_a_link_reopens_the_toggles(open_page):
    page = open_page("?normalize=true&lora=false&function=set_alarm&runtimes=hf-fp16")
    expect(page.locator(".st-key-normalize")).to_contain_text("L2 on, mean norm 1.00", timeout=60_000)
    expect(page.locator(".st-key-lora")).to_contain_text("LoRA off")
    assert page.locator(".st-key-lane-hf-fp16").count() == 1 and page.locator(".st-key-lane-hf-bf16").count() == 0


def test_markup_is_shown_and_neither_run_nor_fetched(open_page, server):
    page = open_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    text = '<img src="http://example.invalid/x.png" onerror="window.hit=1"><script>window.hit=1</script> fly to Rome'
    _type(page, text)
    expect(page.locator(".st-key-lane-hf-bf16 .lane")).to_contain_text("<script>")
    assert page.evaluate("window.hit") is None
    assert not [url for url in asked if "example.invalid" in url]


@pytest.mark.parametrize("text, message", [("", "Type an utterance"), ("x" * 200_001, "200")])
def test_bad_text_gets_a_sentence_and_the_page_goes_on(open_page, text, message):
    page = open_page()
    _type(page, text)
    expect(page.locator("[data-testid=stMain]")).to_contain_text(message)
    _type(page, "fly to Rome")
    assert _marks(page) == ["Rome"]


def test_a_narrow_screen_does_not_scroll_sideways(open_page):
    page = open_page(width=400)
    _marks(page)
    shot(page, "playground-narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_vllm_lane_loads_while_the_page_works_and_then_agrees(open_page):
    page = open_page("?runtimes=hf-bf16&runtimes=vllm-fp16")
    before = _marks(page)
    expect(page.locator(".st-key-lane-vllm-fp16")).to_contain_text("loading")
    _type(page, "get me a plane from Oslo to Rome tomorrow")
    assert "Oslo" in _marks(page)
    assert _marks(page, "vllm-fp16") == _marks(page) != before
    chip = page.locator(".st-key-runtime-vllm-fp16")
    expect(chip).to_contain_text("ready")
    chip.get_by_role("button", name="Log").click()
    expect(page.get_by_text("last lines of")).to_be_visible()
    shot(page, "playground-vllm")


def test_health_from_a_cold_link(open_page):
    page = open_page("Health", dark=True)
    page.locator(".st-key-check-hf-fp16 button").click()
    expect(page.locator(".st-key-health-hf-fp16")).to_contain_text("11 of 11 checks hold", timeout=60_000)
    shot(page, "health")
