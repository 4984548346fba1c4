"""The page with the real demo bundle."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from ui.spans import lane

APP = str(Path(__file__).parent.parent / "app.py")


def _page() -> AppTest:
    return AppTest.from_file(APP, default_timeout=60).run()


def _values(page: AppTest) -> list[str]:
    return list(page.dataframe[0].value["value"])


def test_first_example_is_read_and_the_lora_toggle_changes_it():
    page = _page()
    assert not page.exception
    before = _values(page)
    assert "Boston" in before and "Seattle" in before
    page.toggle(key="lora").set_value(False).run()
    assert _values(page) != before


def test_the_norm_follows_the_normalisation_toggle():
    page = _page()
    page.toggle(key="normalize").set_value(True).run()
    assert "mean norm 1.00" in page.caption[0].value


@pytest.mark.parametrize("text", ["", "  \n", "x" * 200_001])
def test_bad_text_is_one_message_and_the_page_goes_on(text):
    page = _page()
    page.text_area(key="utterance").set_value(text).run()
    assert not page.exception and page.code[0].value
    page.text_area(key="utterance").set_value("fly to Oslo").run()
    assert not page.exception and len(page.dataframe) == 1


def test_markup_is_escaped():
    assert "<script" not in lane("<script>alert(1)</script>", [])
