"""Figures of an evaluation, the same in the page and in the report; readable on light and dark grounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.report import Report, toggles_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Scale = Sequence[tuple[float, str]]  # colours at places from 0 to 1
MATRIX_SCALE: Scale = [(0, "#b5483f"), (0.5, "#b08a2e"), (1, "#2c8465")]  # white figures read on all of it
_AGREEMENT_SCALE: Scale = [(0, "#b5483f"), (1, "#2f6fb3")]


def matrix(report: Report) -> Figure:
    """Draw exact match of every cell: runtimes across, toggles down, the baseline leftmost."""
    names, toggles, shares = matrix_of(report)
    figure = _heat(names, [toggles_text(*t) for t in toggles], shares, scale=MATRIX_SCALE, low=0, digits=1)
    figure.update_layout(height=70 + 55 * len(toggles))
    return figure


def matrix_of(report: Report) -> tuple[list[str], list[tuple[bool, bool]], list[list[float | None]]]:
    """Return runtimes, toggles (normalize, lora), and exact match of each toggle's row; None where nothing is counted."""
    names = list(dict.fromkeys(cell.runtime for cell in report.cells))
    toggles = list(dict.fromkeys((cell.normalize, cell.lora) for cell in report.cells))
    found = {(c.runtime, (c.normalize, c.lora)): c.metrics.decoded for c in report.cells}
    return names, toggles, [[found.get((name, t)) for name in names] for t in toggles]


def agreement(names: Sequence[str], shares: Sequence[Sequence[float | None]]) -> Figure:
    """Draw how many slots each two runtimes read alike."""
    known = [share for row in shares for share in row if share is not None]
    low = min([0.99, *known])  # runtimes differ in the last per cent: a scale from 0 would show one colour
    figure = _heat(names, names, shares, scale=_AGREEMENT_SCALE, low=100 * low, digits=2)
    figure.update_layout(height=90 + 50 * len(names))
    return figure


def exact_match_bars(report: Report) -> Figure:
    """Draw exact match of every cell with its 95 % interval."""
    import plotly.graph_objects as go

    drawn = [(c, c.metrics.decoded, c.ci95) for c in report.cells if c.metrics.decoded is not None and c.ci95 is not None]
    figure = go.Figure()
    figure.add_bar(
        x=[f"{c.runtime}<br>{toggles_text(c.normalize, c.lora)}" for c, _, _ in drawn],
        y=[100 * share for _, share, _ in drawn],
        error_y={
            "array": [100 * (ci[1] - share) for _, share, ci in drawn],
            "arrayminus": [100 * (share - ci[0]) for _, share, ci in drawn],
        },
        marker={"color": "#4c8fd6"},
        hovertemplate="%{x}: %{y:.2f} %<extra></extra>",
    )
    figure.update_layout(yaxis={"title": "exact match, %", "range": [0, 100]}, margin={"l": 8, "r": 8, "t": 8, "b": 8})
    return figure


def _heat(
    across: Sequence[str],
    down: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    *,
    scale: Scale,
    low: float,
    digits: int,
) -> Figure:
    import plotly.graph_objects as go

    percent = [[None if share is None else 100 * share for share in row] for row in shares]
    figure = go.Figure(
        go.Heatmap(
            z=percent,
            x=list(across),
            y=list(down),
            zmin=low,
            zmax=100,
            colorscale=list(scale),
            text=[["" if value is None else f"{value:.{digits}f} %" for value in row] for row in percent],
            texttemplate="%{text}",
            textfont={"size": 14, "color": "#ffffff"},
            hovertemplate="%{x}, %{y}: %{text}<extra></extra>",
            showscale=False,
            xgap=3,
            ygap=3,
        )
    )
    figure.update_layout(margin={"l": 8, "r": 8, "t": 8, "b": 8})
    figure.update_yaxes(autorange="reversed")
    return figure
