"""Figures of the Norms page."""

from collections.abc import Mapping

import plotly.graph_objects as go

from backend.norm_survey import Sweep, TokenNorms
from ui.theme import runtime_colour, runtime_style

_MARGIN = {"l": 8, "r": 8, "t": 28, "b": 8}


def distributions(found: Mapping[str, TokenNorms], places: Mapping[str, int]) -> go.Figure:
    """Draw token norms as one violin a runtime; ``places`` are places in the bundle."""
    figure = go.Figure()
    for name, tokens in found.items():
        figure.add_violin(
            x=list(tokens.norms),
            name=name,
            orientation="h",
            side="positive",
            width=1.6,
            points=False,
            meanline_visible=True,
            line_color=runtime_colour(places[name]),
        )
    figure.update_layout(height=120 + 60 * len(found), margin=_MARGIN, showlegend=False)
    figure.update_xaxes(title="L2 norm of a token's state", rangemode="tozero")
    return figure


def sweeps(found: Mapping[str, Sweep], places: Mapping[str, int], *, label: str) -> go.Figure:
    """Draw accuracy against the scale of normalised states, the mean norm marked."""
    figure = go.Figure()
    for name, sweep in found.items():
        style = runtime_style(places[name])
        figure.add_scatter(
            x=list(sweep.scales),
            y=[100 * a for a in sweep.accuracy],
            name=name,
            mode="lines",
            # runtimes that agree lie upon one another: each dash lets the one below be seen
            line={"color": style.colour, "dash": style.dash, "width": 3 if style.dash == "solid" else 2},
        )
        figure.add_vline(x=sweep.mean_norm, line={"dash": "dot", "color": style.colour})
    figure.update_xaxes(type="log", title="scale; dotted: mean norm of the query states")
    figure.update_yaxes(title=label)
    figure.update_layout(height=280, margin=_MARGIN, legend={"orientation": "h", "y": 1.15}, showlegend=True)
    return figure
