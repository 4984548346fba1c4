"""Upload a set, close the tab while it runs, come back, click a cell, filter, open one, follow it to its diagnosis."""

import json

import pytest
from playwright.sync_api import expect

from backend.bundle import DEMO
from tests.browser.conftest import idle, shot


def _press(page, key, text):
    page.locator(f".st-key-{key} button").filter(has_text=text).click()
    page.wait_for_timeout(300)
    idle(page)


def _open_first(page):
    table = page.locator(".st-key-flips canvas").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 12, box["y"] + 52)  # the first row's checkbox; the table is a canvas under another element


def _start(page):
    """Unfold the form of a new run."""
    if not page.locator(".st-key-start button").is_visible():
        page.locator("[data-testid=stExpander] summary").first.click()


@pytest.mark.timeout(280)
def test_upload_close_come_back_filter_open(open_page, tmp_path):
    lines = (DEMO / "heldout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:130]
    (tmp_path / "mine.jsonl").write_text("".join(lines), encoding="utf-8")
    page = open_page("Evaluate")
    _start(page)
    page.locator(".st-key-upload input[type=file]").set_input_files(tmp_path / "mine.jsonl")
    page.wait_for_timeout(500)
    idle(page)
    page.locator(".st-key-start button").click()
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("running", timeout=60_000)
    page.close()

    page = open_page("Evaluate")
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("finished: 520 of 520 prompts", timeout=150_000)
    expect(page.locator(".st-key-matrix").first).to_contain_text("hf-fp16", timeout=30_000)
    assert "mine.jsonl" in page.locator(".st-key-evaluation input").input_value()
    idle(page)
    shot(page, "evaluate")

    # a click on the second runtime without LoRA filters what is below
    cells = page.locator(".st-key-matrix canvas").first.bounding_box()
    page.mouse.click(cells["x"] + 0.8 * cells["width"], cells["y"] + 35 + 1.5 * 44)  # below the head, rows of 44
    expect(page.locator(".st-key-cell [aria-checked=true]")).to_have_text("L2 off, LoRA off", timeout=20_000)
    idle(page)
    _press(page, "show", "All wrong")
    _open_first(page)
    expect(page.locator(".st-key-opened")).to_contain_text("baseline", timeout=20_000)
    expect(page.locator(".st-key-opened")).to_contain_text("gold")
    shot(page, "evaluate-opened")
    link = page.locator(".st-key-opened a")
    for words in ("run=", "example=", "baseline=hf-bf16", "candidate=hf-fp16", "normalize=false", "lora=false"):
        assert words in link.get_attribute("href")

    for view, key in (("Slices", "slices-chart"), ("Agreement", "agreement"), ("Null threshold", "threshold")):
        _press(page, "view", view)
        expect(page.locator(f".st-key-{key} .main-svg").first).to_be_visible(timeout=20_000)
    _press(page, "view", "Raw labels")
    expect(page.locator("[data-testid=stMain]")).to_contain_text("label", timeout=20_000)
    with page.expect_download(timeout=60_000) as report:
        page.locator(".st-key-html button").click()
    assert "McNemar" in report.value.path().read_text(encoding="utf-8")


@pytest.mark.timeout(280)
def test_two_clicks_from_a_row_of_the_table_to_its_verdict(open_page, stored):
    run, _ = stored
    page = open_page(f"Evaluate?evaluation={run}")
    _press(page, "cell", "L2 on, LoRA on")
    _press(page, "show", "All wrong")
    _open_first(page)
    shot(page, "two-clicks")
    page.locator(".st-key-opened a").click()
    expect(page.locator("[data-testid=stMain]")).to_contain_text("normalisation on", timeout=90_000)
    assert "/Diagnose" in page.url and f"run={run}" in page.url


@pytest.mark.timeout(280)
def test_pause_resume_and_bad_rows_left_out(open_page, tmp_path):
    lines = (DEMO / "heldout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:600]
    bad = json.dumps({"function": "no_such_function", "utterance": "x", "slots": {}}) + "\n"
    (tmp_path / "long.jsonl").write_text(bad + "".join(lines), encoding="utf-8")
    page = open_page("Evaluate")
    _start(page)
    page.locator(".st-key-upload input[type=file]").set_input_files(tmp_path / "long.jsonl")
    page.locator(".st-key-limit input").fill("600")
    page.locator(".st-key-skip-bad label").click()
    page.wait_for_timeout(500)
    idle(page)
    page.locator(".st-key-start button").click()
    expect(page.locator(".st-key-pause button")).to_be_visible(timeout=60_000)
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("a second", timeout=150_000)
    # partial tables while it runs; for a moment the ones before are there too
    expect(page.locator(".st-key-matrix").first).to_contain_text("hf-bf16", timeout=60_000)
    page.locator(".st-key-pause button").click()
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("paused", timeout=60_000)
    expect(page.locator(".st-key-skipped")).to_contain_text("1 bad rows left out")
    page.locator(".st-key-resume button").click()
    expect(page.locator(".st-key-cancel button")).to_be_visible(timeout=60_000)
    page.locator(".st-key-cancel button").click()
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("cancelled", timeout=60_000)
    page.locator(".st-key-past-runs summary").click()
    expect(page.locator("[data-testid=stMain]")).to_contain_text("No other run of this dataset", timeout=20_000)
    page.locator(".st-key-delete button").click()
    expect(page.locator("[data-testid=stMain]")).not_to_contain_text("cancelled", timeout=20_000)


def test_a_bad_set_gets_its_line_and_keeps_the_form(open_page, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"function": "book_flight", "utterance": "x", "slots": {"seat": {}}}\n')
    page = open_page("Evaluate", dark=True)
    _start(page)
    page.locator(".st-key-upload input[type=file]").set_input_files(tmp_path / "bad.jsonl")
    page.wait_for_timeout(500)
    idle(page)
    page.locator(".st-key-start button").click()
    expect(page.locator("[data-testid=stMain]")).to_contain_text("line 1", timeout=20_000)
    assert page.locator(".st-key-start button").is_visible()
