"""Plotly figures; one colour a runtime everywhere, readable on light and dark grounds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from backend.inference import RuntimeRun
from backend.threshold import ThresholdCurve

_RUNTIME_COLOURS = ("#4c8fd6", "#3aa17e", "#d18f2c", "#b86bc4", "#d0645c", "#7f87a8")


def runtime_colour(index: int) -> str:
    """Return the colour of the runtime at this place in the bundle."""
    return _RUNTIME_COLOURS[index % len(_RUNTIME_COLOURS)]


def norms_by_token(runs: Sequence[tuple[int, RuntimeRun]], tokens: Sequence[str]) -> go.Figure:
    """Draw each runtime's L2 norm a prompt token; ``runs`` are (place in the bundle, run) pairs."""
    figure = go.Figure()
    for index, run in runs:
        figure.add_scatter(
            x=list(range(len(tokens))),
            y=list(run.token_norms),
            name=run.runtime,
            mode="lines+markers",
            line={"color": runtime_colour(index), "width": 1.5},
            marker={"size": 4},
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
