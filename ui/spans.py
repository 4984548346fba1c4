"""One lane of highlighted text: the utterance with the spans of present slots, every piece escaped."""

from collections.abc import Mapping, Sequence
from html import escape

from backend.answers import ABSENT
from backend.probe import SlotPrediction
from backend.prompt import Span
from ui.theme import GOLD, SPANS


def lane(text: str, slots: Sequence[SlotPrediction], gold: Mapping[str, Span] | None = None) -> str:
    """Return inert HTML: found spans filled and named, further ones over the same words underlined, gold outlined."""
    found = [(slot.char_span, index) for index, slot in enumerate(slots) if slot.present]
    golden = list((gold or {}).values())
    edges = {0, len(text)} | {edge for span, _ in found for edge in (span.start, span.end)}
    edges |= {edge for span in golden for edge in (span.start, span.end)}
    cuts = sorted(edge for edge in edges if 0 <= edge <= len(text))
    out = ""
    for start, end in zip(cuts, cuts[1:], strict=False):
        here = [index for span, index in found if span.start <= start and end <= span.end]
        outlined = any(span.start <= start and end <= span.end for span in golden)
        names = [slots[index].slot for span, index in found if span.end == end and index in here]
        out += _piece(text[start:end], here, outlined=outlined) + _label(names)
    return f'<div class="lane" style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:2.1">{out}</div>'


def _piece(text: str, here: Sequence[int], *, outlined: bool) -> str:
    if not here and not outlined:
        return escape(text)
    style = "color:inherit;border-radius:3px;padding:1px 0;"
    style += f"background:{SPANS[here[0] % len(SPANS)]}55;" if here else "background:none;"
    if here:
        style += f"border-bottom:2px solid {SPANS[here[-1] % len(SPANS)]};"
    if outlined:
        style += GOLD
    return f'<mark style="{style}">{escape(text)}</mark>'


def _label(names: Sequence[str]) -> str:
    return f'<sub style="opacity:.75"> {escape(", ".join(names))} </sub>' if names else ""


def plain(text: str) -> str:
    """Return an utterance as inert HTML."""
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{escape(text)}</div>'


def stored_lane(title: str, text: str, span: tuple[int, int] | None, *, slot: str, right: bool | None) -> str:
    """Return inert HTML of one slot in one utterance; ``right`` is None for gold, whose span is outlined."""
    mark = {None: "", True: "✓ ", False: "✗ "}[right]
    heading = f'<div style="font-size:.85rem;opacity:.75">{mark}{escape(title)}</div>'
    if span is None:
        shown = f"{escape(text)} <i>{ABSENT}</i>"
    else:
        start, end = span
        middle = _piece(text[start:end], [] if right is None else [0], outlined=right is None)
        shown = f"{escape(text[:start])}{middle}{_label([slot])}{escape(text[end:])}"
    return f'{heading}<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.9">{shown}</div>'
