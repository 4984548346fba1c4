"""Figures of a diagnosis; readable on light and dark grounds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from backend.answers import answer_text
from backend.diagnosis_types import ArmView, Diagnosis

BASELINE, CANDIDATE = "#4c8fd6", "#d18f2c"
_WRONG, _CALM, _BAND = "#d0645c", "#3aa17e", "#d18f2c"
_MARGIN = {"l": 8, "r": 8, "t": 28, "b": 8}


def waterfall(found: Diagnosis, slot: str) -> go.Figure:
    """Draw how each step moves the null margin of one slot, with the answer at the end of each step."""
    margins, answers = [], []
    for step in found.ladder:
        prediction = next(p for p in step.slots if p.slot == slot)
        margins.append(prediction.null_margin)
        answers.append(_short(prediction.value))
    moves = [margins[0], *(b - a for a, b in zip(margins, margins[1:], strict=False))]
    names = [step.factor for step in found.ladder]
    figure = go.Figure(
        go.Waterfall(
            x=[*names, "candidate"],
            y=[*moves, 0],
            measure=["absolute", *["relative"] * (len(moves) - 1), "total"],
            text=[*answers, answers[-1]],
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": _CALM}},
            decreasing={"marker": {"color": _WRONG}},
            totals={"marker": {"color": BASELINE}},
            customdata=[*margins, margins[-1]],
            hovertemplate="%{x}<br>null margin %{customdata:+.2f}<br>%{text}<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"dash": "dot", "color": "#7f87a8"})
    figure.update_layout(height=260, margin=_MARGIN, showlegend=False, yaxis={"title": "null margin"})
    low, high = min(0, *margins), max(0, *margins)
    figure.update_yaxes(range=[low - 0.22 * (high - low), high + 0.22 * (high - low)])  # room for the answers
    return figure


def scores(arms: Sequence[ArmView], index: int, tokens: Sequence[str]) -> go.Figure:
    """Draw start and end scores of one slot as strips over the utterance's tokens, one row an arm and end."""
    rows, names, raw = [], [], []
    for end in ("start", "end"):
        for side, arm in zip(("baseline", "candidate"), arms, strict=False):
            values = getattr(arm, end)[index]
            low, high = min(values), max(values)
            rows.append([(v - low) / (high - low) if high > low else 1.0 for v in values])
            raw.append(list(values))
            names.append(f"{end}, {side}")
    figure = go.Figure(
        go.Heatmap(
            z=rows,
            x=list(range(len(tokens))),
            y=names,
            customdata=raw,
            text=[list(tokens)] * len(rows),
            hovertemplate="%{text}<br>%{y} score %{customdata:.3f}<extra></extra>",
            colorscale=[[0, "rgba(76,143,214,0.06)"], [0.7, "rgba(76,143,214,0.45)"], [1, "#2f6fb3"]],
            showscale=False,
            xgap=1,
            ygap=3,
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=list(tokens), tickangle=-60, tickfont={"size": 10})
    figure.update_layout(height=230, margin=_MARGIN)
    return figure


def band(found: Diagnosis) -> go.Figure:
    """Draw each slot's |weight part| / |bias| with its own flip band (1, n) shaded."""
    figure = go.Figure()
    for place, null in enumerate(found.geometry):
        box = {"y0": place - 0.4, "y1": place + 0.4, "x0": 1, "x1": max(null.norm, 1.0)}
        figure.add_shape(type="rect", **box, fillcolor=_BAND, opacity=0.2, line_width=0)
    kinds = (
        ("flips when normalised", _WRONG, "circle", lambda null: null.flips),
        ("opposite signs, outside", BASELINE, "circle", lambda null: not null.flips and _opposed(null)),
        ("same sign, never flips", BASELINE, "circle-open", lambda null: not null.flips and not _opposed(null)),
    )
    for name, colour, symbol, wanted in kinds:
        drawn = [(place, null) for place, null in enumerate(found.geometry) if wanted(null)]
        figure.add_scatter(
            x=[null.ratio for _, null in drawn],
            y=[place for place, _ in drawn],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2}},
            text=[
                f"{null.slot}: s {null.weight_part:+.2f}, b {null.bias_part:+.2f}, n {null.norm:.2f}" for _, null in drawn
            ],
            hovertemplate="%{text}<br>|s| / |b| = %{x:.2f}<extra></extra>",
        )
    names = [null.slot for null in found.geometry]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    figure.update_xaxes(type="log", title="|weight part s| / |bias b|; shaded: the flip band (1, n)")
    legend = {"orientation": "h", "y": -0.35, "yanchor": "top"}
    figure.update_layout(height=150 + 32 * len(names), margin=_MARGIN, legend=legend)
    return figure


def _opposed(null) -> bool:
    return null.weight_part * null.bias_part < 0


def norms(arms: Sequence[ArmView], tokens: Sequence[str]) -> go.Figure:
    """Draw both arms' norms a prompt token, outliers as crosses."""
    figure = go.Figure()
    for side, colour, arm in zip(("baseline", "candidate"), (BASELINE, CANDIDATE), arms, strict=False):
        outliers = set(arm.norms.outliers)
        figure.add_scatter(
            x=list(range(len(tokens))),
            y=list(arm.token_norms),
            name=f"{side}, CV {100 * arm.norms.cv:.1f} %",
            mode="lines+markers",
            line={"color": colour, "width": 1.5},
            marker={
                "symbol": ["x" if i in outliers else "circle" for i in range(len(tokens))],
                "size": [11 if i in outliers else 4 for i in range(len(tokens))],
            },
            text=list(tokens),
            hovertemplate="%{text}<br>norm %{y:.3f}<extra></extra>",
        )
    figure.update_layout(height=230, margin=_MARGIN, legend={"orientation": "h", "y": 1.18})
    figure.update_yaxes(title="norm", rangemode="tozero")
    figure.update_xaxes(title="prompt token; crosses are outliers")
    return figure


def cosine(found: Diagnosis, tokens: Sequence[str]) -> go.Figure:
    """Draw the cosine of the arms' raw states a prompt token."""
    figure = go.Figure(go.Bar(x=list(range(len(tokens))), y=list(found.cosine), marker_color=BASELINE, text=list(tokens)))
    figure.update_traces(textposition="none", hovertemplate="%{text}<br>cosine %{y:.5f}<extra></extra>")
    figure.update_layout(height=200, margin=_MARGIN, bargap=0.15)
    figure.update_yaxes(range=[min(0.99, *found.cosine), 1], title="cosine")
    figure.update_xaxes(title="prompt token")
    return figure


def _short(value: str | None) -> str:
    text = answer_text(value)
    return text if len(text) <= 18 else f"{text[:17]}…"
