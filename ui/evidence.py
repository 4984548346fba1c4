"""A diagnosis drawn: verdicts, the factor ladder, the flip band, and what the states look like token by token."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from backend.diagnosis_types import Cause, Diagnosis


def verdicts(found: Diagnosis) -> None:
    """Draw one line a slot that has a cause, with its evidence; the others in one sentence."""
    named = [verdict for verdict in found.verdicts if verdict.cause is not Cause.NONE]
    for verdict in named:
        with st.container(border=True, key=f"verdict-{verdict.slot}"):
            st.markdown(f"**{verdict.cause}**, confidence {verdict.confidence:.2f}")
            lines = [f"{e.name}: {e.observed}, expected {e.expected}" for e in verdict.evidence]
            st.code("\n".join([f"slot {verdict.slot}", *lines, verdict.remedy]), language=None, wrap_lines=True)
    calm = len(found.verdicts) - len(named)
    if calm:
        st.caption(f"{calm} of {len(found.verdicts)} slots: no difference.")


def ladder(found: Diagnosis) -> None:
    """Draw each slot's answer after one more factor was changed."""
    if not found.ladder:
        return
    st.subheader("One factor at a time")
    rows = [
        {"factor": step.factor, "changes": ", ".join(step.changed) or "nothing"}
        | {slot.slot: slot.value if slot.present else "(absent)" for slot in step.slots}
        for step in found.ladder
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="steps")


def plots(found: Diagnosis, tokens: Sequence[str]) -> None:
    """Draw the null decision against the flip band, and the agreement of states."""
    if not found.geometry:
        return
    st.subheader("Null decision: weight part against bias")
    st.plotly_chart(_band(found), key="band")
    certified = sum(certificate.certified for certificate in found.certificates)
    st.caption(
        f"Inside the shaded band, with opposite signs, normalisation flips presence. Pointers of {certified} of "
        f"{len(found.certificates)} slots are certain to survive it."
    )
    st.subheader("Agreement of the states with the baseline's")
    figure = go.Figure(go.Bar(x=list(range(len(tokens))), y=list(found.cosine), marker_color="#4c8fd6", text=list(tokens)))
    figure.update_traces(textposition="none", hovertemplate="%{text}<br>cosine %{y:.5f}<extra></extra>")
    low = min(found.cosine)
    figure.update_layout(height=200, margin={"l": 8, "r": 8, "t": 8, "b": 8}, yaxis={"range": [min(low, 0.99), 1]})
    st.plotly_chart(figure, key="cosine")


def _band(found: Diagnosis) -> go.Figure:
    norm = max(null.norm for null in found.geometry)
    figure = go.Figure()
    figure.add_vrect(x0=1, x1=norm, fillcolor="#d18f2c", opacity=0.18, line_width=0)
    for flips, colour, name in ((True, "#d0645c", "flips"), (False, "#4c8fd6", "stays")):
        drawn = [null for null in found.geometry if null.flips is flips]
        figure.add_scatter(
            x=[null.ratio for null in drawn],
            y=[null.slot for null in drawn],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 11},
            hovertemplate="%{y}: |s| / |b| = %{x:.2f}<extra></extra>",
        )
    figure.update_xaxes(type="log", title="|weight part| / |bias|")
    figure.update_layout(height=90 + 32 * len(found.geometry), margin={"l": 8, "r": 8, "t": 8, "b": 8})
    return figure
