"""A bundle's figures as an inert HTML table: needs no plotting library, so that it is there at once."""

from collections.abc import Sequence
from html import escape

from backend.results import Figure, Results
from backend.runtimes.base import ForwardOptions
from ui.theme import MUTED, runtime_colour


def table(results: Results, names: Sequence[str]) -> str:
    """Return the figures as trained, each with its interval drawn on one scale."""
    drawn = [figure for figure in results.figures if figure.options == ForwardOptions()]
    low = min((f.low for f in drawn if f.low is not None), default=0.0)
    high = max((f.high for f in drawn if f.high is not None), default=1.0)
    head = "".join(f"<th style='{_CELL};{MUTED}'>{name}</th>" for name in _COLUMNS)
    rows = "".join(_row(figure, names, (low, high)) for figure in drawn)
    table = f"<table style='border-collapse:collapse;width:100%'><tr>{head}</tr>{rows}</table>"
    return f"<div style='overflow-x:auto'>{table}</div>"


_COLUMNS = ("runtime", "exact match", "95 % interval", "", "against raw label", "presence", "n")
_CELL = "text-align:left;padding:.3rem .8rem .3rem 0;font-size:.9rem;font-weight:400;white-space:nowrap"


def _row(figure: Figure, names: Sequence[str], scale: tuple[float, float]) -> str:
    colour = runtime_colour(names.index(figure.runtime)) if figure.runtime in names else "currentColor"
    cells = [
        f"<span style='color:{colour}'>●</span> {escape(figure.runtime)}",
        f"<b>{percent(figure.exact_match)}</b>",
        _interval(figure),
        _bar(figure, scale, colour),
        percent(figure.raw),
        percent(figure.presence),
        f"{figure.n:,}",
    ]
    line = "border-top:1px solid color-mix(in srgb, currentColor 15%, transparent)"
    return f"<tr style='{line}'>" + "".join(f"<td style='{_CELL}'>{cell}</td>" for cell in cells) + "</tr>"


def _bar(figure: Figure, scale: tuple[float, float], colour: str) -> str:
    if figure.low is None or figure.high is None or figure.exact_match is None:
        return ""
    width = max(1e-9, scale[1] - scale[0])
    left, right, at = (100 * (v - scale[0]) / width for v in (figure.low, figure.high, figure.exact_match))
    line = f"left:{left:.1f}%;width:{right - left:.1f}%;top:.4rem;height:2px"
    dot = f"left:calc({at:.1f}% - .25rem);top:.2rem;width:.5rem;height:.5rem;border-radius:50%"
    marks = "".join(f"<div style='position:absolute;background:{colour};{style}'></div>" for style in (line, dot))
    return f"<div style='position:relative;min-width:8rem;height:.9rem;margin:0 .3rem'>{marks}</div>"


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return "–"
    return f"{100 * figure.low:.1f} – {100 * figure.high:.1f}"


def percent(share: float | None) -> str:
    """Return a share in percent, or a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"
