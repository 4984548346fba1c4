"""Plotly figures; one colour a runtime everywhere, readable on light and dark grounds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from backend.flips import ThresholdCurve
from backend.inference import RuntimeRun
from backend.report import Report, toggles_text
from ui.theme import runtime_style


def norms_by_token(runs: Sequence[tuple[int, RuntimeRun]], tokens: Sequence[str]) -> go.Figure:
    """Draw each runtime's L2 norm a prompt token; ``runs`` are (place in the bundle, run) pairs."""
    figure = go.Figure()
    for index, run in runs:
        figure.add_scatter(
            x=list(range(len(tokens))),
            y=list(run.token_norms),
            name=run.runtime,
            mode="lines+markers",
            line={"color": (style := runtime_style(index)).colour, "width": 1.5, "dash": style.dash},
            marker={"size": 5, "symbol": style.symbol},
            text=list(tokens),
            hovertemplate="%{text}<br>norm %{y:.3f}<extra>" + run.runtime + "</extra>",
        )
    figure.update_layout(
        height=220,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": "prompt token"},
        yaxis={"title": "norm", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.15},
        hovermode="x unified",
    )
    return figure


def matrix(report: Report) -> go.Figure:
    """Draw exact match of every cell: runtimes across, toggles down, baseline leftmost."""
    names = list(dict.fromkeys(cell.runtime for cell in report.cells))
    toggles = list(dict.fromkeys((cell.normalize, cell.lora) for cell in report.cells))
    found = {(c.runtime, (c.normalize, c.lora)): c.metrics.decoded for c in report.cells}
    shares = [[found.get((name, t)) for name in names] for t in toggles]
    percent = [[None if share is None else 100 * share for share in row] for row in shares]
    figure = go.Figure(
        go.Heatmap(
            z=percent,
            x=names,
            y=[toggles_text(normalize, lora) for normalize, lora in toggles],
            zmin=0,
            zmax=100,
            colorscale=[[0, "#d0645c"], [0.5, "#d9b64a"], [1, "#3aa17e"]],
            text=[["-" if value is None else f"{value:.1f}" for value in row] for row in percent],
            texttemplate="%{text} %",
            textfont={"size": 14, "color": "#ffffff"},
            hovertemplate="%{x}, %{y}: %{text} %<extra></extra>",
            showscale=False,
            xgap=3,
            ygap=3,
        )
    )
    figure.update_layout(height=70 + 55 * len(toggles), margin={"l": 8, "r": 8, "t": 8, "b": 8})
    figure.update_yaxes(autorange="reversed")
    return figure


def threshold(name: str, curve: ThresholdCurve) -> go.Figure:
    """Draw presence accuracy against the shift of the null decision."""
    figure = go.Figure()
    figure.add_scatter(x=list(curve.shifts), y=[100 * a for a in curve.accuracy], name=name, line={"color": "#4c8fd6"})
    figure.add_vline(x=0, line={"dash": "dot", "color": "#7f87a8"}, annotation_text="now")
    best = f"best {100 * curve.best_accuracy:.1f} %"
    figure.add_vline(x=curve.best_shift, line={"color": "#3aa17e"}, annotation_text=best)
    figure.update_layout(
        height=240,
        margin={"l": 8, "r": 8, "t": 24, "b": 8},
        xaxis={"title": "present where the margin is above"},
        yaxis={"title": "presence accuracy, %"},
    )
    return figure
