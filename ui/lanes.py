"""What the runtimes made of one text: lanes, the table of slots, and norms."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from backend.answers import answer_text
from backend.dataset import GoldSlot
from backend.inference import Outcome, RuntimeRun
from backend.pool import State
from backend.prompt import Prompt
from ui.charts import norms_by_token
from ui.frame import Context, show_error
from ui.sheet import sheet
from ui.spans import lane
from ui.theme import runtime_colour

Gold = tuple[GoldSlot, ...] | None


def empty_state() -> None:
    """Say what to do when there is no text."""
    st.info(
        "Type an utterance above, or choose an example: the words that the probe reads as slots light up as you go.",
        icon=":material/edit:",
    )


def show(context: Context, prompt: Prompt, outcomes: Sequence[Outcome], gold: Gold) -> None:
    """Draw one lane a runtime: highlighted text, or its state, or its error."""
    if not outcomes:
        st.info("Choose at least one runtime.", icon=":material/memory:")
    spans = {g.slot: g.chars for g in gold or ()}
    for outcome in outcomes:
        index = context.bundle.runtimes.index(outcome.spec)
        with st.container(border=True, key=f"lane-{outcome.spec.name}"):
            st.html(_heading(outcome, index))
            if outcome.run is not None:
                st.html(lane(prompt.utterance, outcome.run.slots, spans))
            elif outcome.status.state is State.LOADING:
                _wait(context, outcome)
            elif outcome.error is not None:
                show_error(outcome.error)
                if st.button("Retry", key=f"retry-{outcome.spec.name}"):
                    context.pool.unload(outcome.spec)
                    st.rerun()
    if gold is not None:
        st.caption("Dashed outline: gold spans of this example.")


def _heading(outcome: Outcome, index: int) -> str:
    details = ""
    if outcome.run is not None and outcome.status.info is not None:
        run, info = outcome.run, outcome.status.info
        kept = ", asked before" if run.kept else ""
        details = f"{run.latency_ms:.0f} ms{kept} · mean norm {run.norms.mean:.2f} · {info.dtype} · {info.device}"
    return (
        f'<div style="font-size:.85rem"><span style="color:{runtime_colour(index)}">●</span> '
        f'<b>{escape(outcome.spec.name)}</b> <span style="opacity:.65">{escape(details)}</span></div>'
    )


def _wait(context: Context, outcome: Outcome) -> None:
    """Count the seconds; draw the whole page again as soon as the runtime is ready or has failed."""

    @st.fragment(run_every=1)
    def waiting() -> None:
        status = context.pool.status(outcome.spec)
        if status.state is not State.LOADING:
            st.rerun()
        st.caption(f"loading, {status.elapsed_s:.0f} s so far; the other lanes work meanwhile")

    waiting()


def table(outcomes: Sequence[Outcome], gold: Gold) -> None:
    """Draw the slots: gold where known, each runtime's value, and how sure it was that there is one."""
    runs = [outcome.run for outcome in outcomes if outcome.run is not None]
    if not runs:
        return
    labels = {g.slot: g.value for g in gold or ()}
    rows = []
    for place, slot in enumerate(runs[0].slots):
        row = {"slot": slot.slot}
        if gold is not None:
            row["gold"] = answer_text(labels.get(slot.slot))
        for run in runs:
            row[run.runtime] = _cell(run, runs[0], place, labels if gold is not None else None)
            row[f"{run.runtime} margin"] = f"{run.slots[place].null_margin:+.2f}"
        rows.append(row)
    pinned = {"slot": st.column_config.TextColumn(pinned=True)}  # stays in view on a narrow screen
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=pinned, key="slots")
    st.caption("Margin: present minus absent logit. ✓ right, ✗ wrong, ≠ another answer than the first runtime.")


def _cell(run: RuntimeRun, first: RuntimeRun, place: int, labels: dict[str, str] | None) -> str:
    slot = run.slots[place]
    value = slot.value if slot.present else None
    mark = ""
    if labels is not None:
        mark = " ✓" if (value or "") == labels.get(slot.slot, "") else " ✗"
    flipped = " ≠" if value != first.slots[place].value else ""
    return answer_text(value) + mark + flipped


def norms(context: Context, prompt: Prompt, outcomes: Sequence[Outcome]) -> None:
    """Draw norms a token and their summary."""
    drawn = [(context.bundle.runtimes.index(o.spec), o.run) for o in outcomes if o.run is not None]
    if not drawn:
        return
    st.subheader("Norms of the hidden states", divider=False)
    st.plotly_chart(norms_by_token(drawn, context.probe.builder.tokens(prompt.ids)), key="norms")
    names = ("mean", "std", "min", "max", "cv")
    summary = [
        {"runtime": run.runtime, "n": run.norms.n} | {n: f"{getattr(run.norms, n):.4f}" for n in names} for _, run in drawn
    ]
    st.html(sheet(summary, key="norm-summary"))
