"""Upload a set, close the tab while it runs, come back, filter, open one."""

import pytest
from playwright.sync_api import expect

from backend.bundle import DEMO
from tests.browser.conftest import idle, shot


def _press(page, key, text):
    page.locator(f".st-key-{key} button").filter(has_text=text).click()
    page.wait_for_timeout(300)
    idle(page)


@pytest.mark.timeout(240)
def test_upload_close_come_back_filter_open(open_page, tmp_path):
    lines = (DEMO / "heldout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:130]
    (tmp_path / "mine.jsonl").write_text("".join(lines), encoding="utf-8")
    page = open_page("Evaluate")
    page.locator(".st-key-upload input[type=file]").set_input_files(tmp_path / "mine.jsonl")
    page.wait_for_timeout(500)
    idle(page)
    page.locator(".st-key-start button").click()
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("running", timeout=60_000)
    page.close()

    page = open_page("Evaluate")
    expect(page.locator("[data-testid=stProgress]")).to_contain_text("finished: batch 12 of 12", timeout=150_000)
    page.reload()
    idle(page)
    expect(page.locator(".st-key-matrix")).to_contain_text("hf-fp16")
    shot(page, "evaluate")
    _press(page, "cell", "L2 off, LoRA off")
    _press(page, "show", "Regressions")
    table = page.locator(".st-key-flips canvas").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 12, box["y"] + 52)  # the first row's checkbox; the table is a canvas under another element
    expect(page.locator(".st-key-opened")).to_contain_text("gold", timeout=20_000)
    shot(page, "evaluate-opened")


def test_a_bad_set_gets_its_line_and_keeps_the_form(open_page, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"function": "book_flight", "utterance": "x", "slots": {"seat": {}}}\n')
    page = open_page("Evaluate", dark=True)
    if not page.locator(".st-key-start button").is_visible():
        page.locator("[data-testid=stExpander] summary").first.click()
    page.locator(".st-key-upload input[type=file]").set_input_files(tmp_path / "bad.jsonl")
    page.wait_for_timeout(500)
    idle(page)
    page.locator(".st-key-start button").click()
    expect(page.locator("[data-testid=stMain]")).to_contain_text("line 1", timeout=20_000)
    assert page.locator(".st-key-start button").is_visible()
