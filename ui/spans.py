"""One lane of highlighted text: the utterance with the spans of present slots, every piece escaped."""

from collections.abc import Sequence
from html import escape

from backend.probe import SlotPrediction

_COLOURS = ("#4c9be8", "#e0a030", "#3cab7a", "#c46fc9", "#d9694f", "#7d86e0")


def lane(text: str, slots: Sequence[SlotPrediction]) -> str:
    """Return inert HTML; where spans overlap, the earlier one is drawn and the later one is left to the table."""
    chosen = sorted((s.char_span.start, s.char_span.end, i) for i, s in enumerate(slots) if s.present)
    out, at = "", 0
    for start, end, index in chosen:
        if start < at:
            continue
        colour = _COLOURS[index % len(_COLOURS)]
        out += escape(text[at:start])
        out += f'<mark style="background:{colour}55;color:inherit;border-bottom:2px solid {colour}">'
        out += f"{escape(text[start:end])}<sub> {escape(slots[index].slot)}</sub></mark>"
        at = end
    return f'<div style="white-space:pre-wrap;line-height:2">{out}{escape(text[at:])}</div>'
