"""A bundle's figures as an inert HTML table: needs no plotting library, so that it is there at once."""

from collections.abc import Sequence
from html import escape

from backend.results import Figure, Results
from backend.runtimes.base import ForwardOptions
from ui.sheet import Cell, Inert, percent, sheet
from ui.theme import runtime_colour


def table(results: Results, names: Sequence[str]) -> str:
    """Return the figures as trained, each with its interval drawn on one scale."""
    drawn = [figure for figure in results.figures if figure.options == ForwardOptions()]
    low = min((f.low for f in drawn if f.low is not None), default=0.0)
    high = max((f.high for f in drawn if f.high is not None), default=1.0)
    return sheet([_row(figure, names, (low, high)) for figure in drawn], key="results")


def _row(figure: Figure, names: Sequence[str], scale: tuple[float, float]) -> dict[str, Cell]:
    colour = runtime_colour(names.index(figure.runtime)) if figure.runtime in names else "currentColor"
    return {
        "runtime": Inert(f"<span><span style='color:{colour}'>●</span> {escape(figure.runtime)}</span>"),
        "exact match": Inert(f"<b>{percent(figure.exact_match)}</b>"),
        "95 % interval": _interval(figure),
        "": Inert(_bar(figure, scale, colour)),
        "against raw label": percent(figure.raw),
        "presence": percent(figure.presence),
        "n": figure.n,
    }


def _bar(figure: Figure, scale: tuple[float, float], colour: str) -> str:
    if figure.low is None or figure.high is None or figure.exact_match is None:
        return ""
    width = max(1e-9, scale[1] - scale[0])
    left, right, at = (100 * (v - scale[0]) / width for v in (figure.low, figure.high, figure.exact_match))
    line = f"left:{left:.1f}%;width:{right - left:.1f}%;top:.4rem;height:2px"
    dot = f"left:calc({at:.1f}% - .25rem);top:.2rem;width:.5rem;height:.5rem;border-radius:50%"
    marks = "".join(f"<div style='position:absolute;background:{colour};{style}'></div>" for style in (line, dot))
    return f"<div style='position:relative;flex:1;min-width:8rem;height:.9rem;margin:.25rem .3rem 0'>{marks}</div>"


def _interval(figure: Figure) -> str | None:
    if figure.low is None or figure.high is None:
        return None
    return f"{100 * figure.low:.1f} – {100 * figure.high:.1f}"
