"""Plotly figures; one colour a runtime everywhere, readable on light and dark grounds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from backend.inference import RuntimeRun
from backend.slices import Slice
from backend.threshold import ThresholdCurve
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


def slices_chart(slices: Sequence[Slice]) -> go.Figure:
    """Draw exact match of each slice with its interval, and the baseline's as a tick."""
    shown = list(reversed(slices))  # the most damaged on top
    figure = go.Figure()
    figure.add_scatter(
        x=[100 * s.exact_match for s in shown],
        y=[s.name for s in shown],
        name="candidate, 95 %",
        mode="markers",
        marker={"color": "#3aa17e", "size": 9},
        error_x={
            "array": [100 * (s.ci95[1] - s.exact_match) for s in shown],
            "arrayminus": [100 * (s.exact_match - s.ci95[0]) for s in shown],
            "color": "#3aa17e",
            "thickness": 1.5,
        },
        customdata=[[s.n, s.regressions, s.improvements] for s in shown],
        hovertemplate="%{y}: %{x:.1f} %, n = %{customdata[0]}, %{customdata[1]} regressions, "
        "%{customdata[2]} improvements<extra></extra>",
    )
    figure.add_scatter(
        x=[100 * s.baseline for s in shown],
        y=[s.name for s in shown],
        name="baseline",
        mode="markers",
        marker={"color": "#4c8fd6", "symbol": "line-ns-open", "size": 14, "line": {"width": 2}},
        hovertemplate="%{y}: baseline %{x:.1f} %<extra></extra>",
    )
    figure.update_layout(
        height=110 + 24 * len(shown),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": "exact match, %"},
        yaxis={"automargin": True, "type": "category"},
        legend={"orientation": "h", "y": 1.08},
    )
    return figure
