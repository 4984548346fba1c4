"""Plotly figures; one colour a runtime everywhere, readable on light and dark grounds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from backend.inference import RuntimeRun

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
