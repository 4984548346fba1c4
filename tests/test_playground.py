"""The page with the real demo bundle."""

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.probe import SlotPrediction
from backend.prompt import Span
from ui.spans import lane

APP = str(Path(__file__).parent.parent / "app.py")


@pytest.fixture
def page():
    made = AppTest.from_file(APP, default_timeout=60)
    made.run()
    for _ in range(60):  # the first runtime loads in the background
        if len(made.dataframe):
            break
        time.sleep(0.5)
        made.run()
    return made


def _values(page: AppTest) -> list[str]:
    return list(page.dataframe[0].value["hf-bf16"])


def test_first_text_is_read_and_the_lora_toggle_changes_it(page):
    assert not page.exception
    before = _values(page)
    assert "Boston" in before and "Seattle" in before
    page.toggle(key="lora").set_value(False).run()
    assert _values(page) != before
    page.toggle(key="lora").set_value(True).run()
    assert _values(page) == before and any("asked before" in block.proto.body for block in page.get("html"))


def test_the_label_says_what_normalisation_did(page):
    page.toggle(key="normalize").set_value(True).run()
    assert page.toggle(key="normalize").label == "L2 on, mean norm 1.00"


@pytest.mark.parametrize("text", ["x" * 200_001, "fly " * 2_000, "\0\0", "\u200b\u200d", "\u202e\u2066\u2069"])
def test_bad_text_is_one_message_and_the_page_goes_on(page, text):
    page.text_area(key="utterance").set_value(text).run()
    assert not page.exception and page.code[0].value
    page.text_area(key="utterance").set_value("fly to Oslo").run()
    assert not page.exception and "Oslo" in _values(page)


def test_an_example_fills_in_function_and_text_and_shows_gold(page):
    page.selectbox(key="example").select_index(3).run()
    assert not page.exception
    assert page.session_state["utterance"] == page.session_state["example"].utterance
    assert "gold" in page.dataframe[0].value


def test_a_custom_function_from_tool_json(page):
    page.selectbox(key="function").set_value("custom function…").run()
    assert not page.exception
    assert list(page.dataframe[0].value["slot"]) == ["date", "destination", "origin"]
    page.text_area(key="tool").set_value("{").run()
    assert not page.exception and "JSON" in page.code[0].value


TOOL = '{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": %s}}}'
BAD_TOOLS = {
    "no slots": (TOOL % "{}", "no slots"),
    "a slot twice": (TOOL % '{"a": {}, "a": {}}', "twice"),
    "two functions": (
        "[" + TOOL % '{"a": {}}' + "," + TOOL.replace('"f"', '"g"') % '{"a": {}}' + "]",
        "one function at a time",
    ),
    "no object": ("17", "neither a schema file nor tool JSON"),
    "NaN": (TOOL % '{"a": {"default": NaN}}', "NaN"),
    "deep": ("[" * 5000, "nested too deeply"),
    "half a surrogate pair": (TOOL % '{"\\ud800": {}}', "surrogate"),
    "a name of two lines": (TOOL % '{"a\\nb": {}}', "printable"),
}


@pytest.mark.parametrize("name", BAD_TOOLS)
def test_a_bad_function_is_one_message_and_the_page_goes_on(page, name):
    text, words = BAD_TOOLS[name]
    page.selectbox(key="function").set_value("custom function…").run()
    page.text_area(key="tool").set_value(text).run()
    assert not page.exception and len(page.code) == 1 and words in page.code[0].value
    page.text_area(key="tool").set_value(TOOL % '{"destination": {}}').run()
    assert not page.exception and list(page.dataframe[0].value["slot"]) == ["destination"]


def test_white_space_is_the_empty_state(page):
    page.text_area(key="utterance").set_value(" \n\t ").run()
    assert not page.exception and "Type an utterance" in page.info[0].value


def test_a_broken_bundle_is_told_on_the_page(tmp_path, monkeypatch):
    (tmp_path / "bundle.toml").write_text('base = "nowhere"\nunknown = 1\n')
    monkeypatch.setenv("PROBE_PARITY_BUNDLE", str(tmp_path))
    page = AppTest.from_file(APP, default_timeout=60).run()
    assert not page.exception and len(page.code) == 1
    assert "problems" in page.code[0].value and "unknown" in page.code[0].value and "nowhere" in page.code[0].value


def test_markup_is_escaped():
    assert "<script" not in lane("<script>alert(1)</script>", [])


def test_overlapping_spans_and_gold_are_all_drawn():
    html = lane("fly to New York", [_slot("a", 7, 15), _slot("b", 11, 15)], {"a": Span(7, 10)})
    assert html.count("<mark") == 3 and "a, b" in html and "dashed" in html


def _slot(name, start, end):
    at = Span(start, end)
    return SlotPrediction(name, True, (1.0, 0.0), at, "x", at, 0.0, 0.0, 0.0, 0.0)
