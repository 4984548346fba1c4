"""How one slot's answer is written for people, in pages, reports and the terminal alike."""

from __future__ import annotations

ABSENT = "(absent)"


def answer_text(value: str | None, *, quoted: bool = False) -> str:
    """Return a slot's value, or that there is none.

    Args:
        value: the text, possibly empty; None where the slot is absent.
        quoted: put the text in quotation marks and escape what does not print, as within a sentence.
    """
    if value is None:
        return ABSENT
    return repr(value) if quoted else value
