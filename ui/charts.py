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


def threshold(curves: Sequence[tuple[int, str, ThresholdCurve]]) -> go.Figure:
    """Draw presence accuracy against the shift of the null decision; ``curves`` are (place in the run, runtime, curve)."""
    figure = go.Figure()
    for index, name, curve in curves:
        style = runtime_style(index)
        figure.add_scatter(
            x=list(curve.shifts),
            y=[100 * accuracy for accuracy in curve.accuracy],
            name=name,
            mode="lines",
            line={"color": style.colour, "dash": style.dash},
            hovertemplate="%{x:+.2f}: %{y:.2f} %<extra>" + name + "</extra>",
        )
        figure.add_scatter(
            x=[curve.best_shift],
            y=[100 * curve.best_accuracy],
            name=f"{name}: best {100 * curve.best_accuracy:.1f} % at {curve.best_shift:+.2f}",
            mode="markers",
            marker={"color": style.colour, "size": 10, "symbol": style.symbol},
            hoverinfo="skip",
        )
    figure.add_vline(x=0, line={"dash": "dot", "color": "#7f87a8"}, annotation_text="now")
    figure.update_layout(
        height=320,
        margin={"l": 8, "r": 8, "t": 24, "b": 8},
        xaxis={"title": "present where the margin is above, logits"},
        yaxis={"title": "presence accuracy, %"},
        legend={"orientation": "h", "y": -0.25},
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
