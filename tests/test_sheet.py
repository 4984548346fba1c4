"""Small tables are inert, and say each column's name in every cell for the cards of a narrow screen."""

from xml.etree import ElementTree

from ui.sheet import Inert, percent, sheet


def test_text_is_escaped_and_our_own_html_is_not():
    made = sheet([{"<b>": "<script>x</script>", "mark": Inert("<i>kept</i>")}], key="any")
    assert "<script>" not in made and "<i>kept</i>" in made
    assert ElementTree.fromstring(made).find("table/tbody/tr/td").get("data-label") == "<b>"


def test_columns_of_numbers_are_drawn_right_of_their_column():
    made = sheet([{"name": "a1", "n": 1234, "share": "5.8 %"}, {"name": "7", "n": None, "share": "–"}], key="any")
    cells = ElementTree.fromstring(made).findall("table/tbody/tr/td")
    assert [cell.get("class") for cell in cells] == [None, "number", "number"] * 2
    assert [cell.text for cell in cells] == ["a1", "1,234", "5.8 %", "7", "–", "–"]


def test_no_rows_and_no_share():
    assert ElementTree.fromstring(sheet([], key="any")).find("table/tbody/tr") is None
    assert percent(None) == "–" and percent(0.0582, places=2) == "5.82 %"
