"""Names from elsewhere in places that Streamlit reads as Markdown, where an image in a name would be fetched."""

import re

# what GitHub's Markdown and Streamlit's directives, emoji and formulas begin or end with
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-!|~$:&])")


def as_written(text: str) -> str:
    """Return Markdown that shows a text as it is, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))
