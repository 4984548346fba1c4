"""The visual language: one colour, dash and marker a runtime, one look for gold, one spacing.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart; dashes and markers tell lines apart in
black and white. Gold is never a colour: it is an outline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class RuntimeStyle:
    """How one runtime is drawn everywhere."""

    colour: str
    dash: str  # plotly's name
    symbol: str  # plotly's name


_STYLES = (
    RuntimeStyle("#0072b2", "solid", "circle"),  # blue
    RuntimeStyle("#e69f00", "dash", "square"),  # orange
    RuntimeStyle("#009e73", "dot", "diamond"),  # bluish green
    RuntimeStyle("#cc79a7", "dashdot", "triangle-up"),  # reddish purple
    RuntimeStyle("#56b4e9", "longdash", "cross"),  # sky blue
    RuntimeStyle("#8c8c8c", "longdashdot", "x"),  # grey
)
SPANS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#b8a800", "#8c8c8c")
GOOD, BAD, NEUTRAL = "#009e73", "#d55e00", "#8c8c8c"  # green and vermilion differ in brightness too
GOLD = "outline:1.5px dashed currentColor;outline-offset:1px"
MUTED = "opacity:.72"  # contrast of at least 4.5 on both grounds


def runtime_style(index: int) -> RuntimeStyle:
    """Return the style of the runtime at this place in the bundle; a seventh begins anew."""
    return _STYLES[index % len(_STYLES)]


def runtime_colour(index: int) -> str:
    """Return the colour of the runtime at this place in the bundle."""
    return runtime_style(index).colour


def tag(text: str) -> str:
    """Return a small outlined word as inert HTML, such as *Recorded*."""
    style = "border:1px solid currentColor;border-radius:.25rem;padding:0 .35rem;font-size:.75rem;white-space:nowrap"
    return f'<span style="{style}">{escape(text)}</span>'


def blend(scale: Sequence[tuple[float, str]], at: float) -> str:
    """Return the colour of a place from 0 to 1 on a scale of ``(place, #rrggbb)``, as plotly blends them."""
    (low, first), (high, second) = next(pair for pair in zip(scale, scale[1:], strict=False) if at <= pair[1][0])
    part = (at - low) / (high - low)
    ends = zip(bytes.fromhex(first[1:]), bytes.fromhex(second[1:]), strict=True)
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in ends)
