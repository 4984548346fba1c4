"""A diagnosis drawn: verdicts on top, then tokens, scores, the ladder and the geometry of one slot."""

from html import escape

import streamlit as st

from backend.answers import answer_text
from backend.diagnosis_types import Cause, Diagnosis, Verdict
from backend.probe import Probe
from backend.prompt import Prompt
from ui import diagnosis_charts as charts
from ui.markdown import as_written
from ui.sheet import sheet


def verdicts(found: Diagnosis) -> None:
    """Draw what is wrong with the deployment, then a box a slot that has a cause, the others in one sentence."""
    if found.faults:
        listed = " · ".join(f"{fault.cause} ({fault.confidence:.2f})" for fault in found.faults)
        st.error(f"This deployment: {listed}", icon=":material/report:")
    by_slot: dict[str, list[Verdict]] = {}
    for verdict in found.verdicts:
        by_slot.setdefault(verdict.slot, []).append(verdict)
    named = {slot: made for slot, made in by_slot.items() if any(v.cause is not Cause.NONE for v in made)}
    # slots that only survived a fault of the deployment say nothing new
    told = {slot: made for slot, made in named.items() if _changed(found, slot) or not found.faults} or named
    columns = st.columns(2 if len(told) > 1 else 1)
    for place, (slot, made) in enumerate(told.items()):
        with columns[place % len(columns)].container(border=True, key=f"verdict-{slot}"):
            st.markdown("  \n".join(f"**{v.cause}**, confidence {v.confidence:.2f}" for v in made))
            evidence = dict.fromkeys(e for v in made for e in v.evidence)  # each once: causes share some
            lines = [f"{e.name}: {e.observed}, expected {e.expected}" for e in evidence]
            st.code("\n".join([f"slot {slot}", *lines]), language=None, wrap_lines=True)
    calm = len(by_slot) - len(told)
    if calm:
        st.caption(f"{calm} of {len(by_slot)} slots: no difference.")
    _remedies([verdict for made in told.values() for verdict in made])


def _remedies(made: list[Verdict]) -> None:
    """Draw what to do, once a cause however many slots it changed."""
    lines = dict.fromkeys(f"{verdict.cause}: {verdict.remedy}" for verdict in made)
    if lines:
        st.code("\n".join(lines), language=None, wrap_lines=True)


def _changed(found: Diagnosis, slot: str) -> bool:
    return not found.ladder or any(slot in step.changed for step in found.ladder)


def choose_slot(found: Diagnosis) -> str:
    """Draw the slot picker; the first slot with a cause unless somebody chose."""
    names = [slot.slot for slot in found.arms[0].slots]
    changed = [s.slot for s in found.shares] or [v.slot for v in found.verdicts if v.cause is not Cause.NONE] or names
    # options are Markdown, and a slot may be called anything
    return st.segmented_control("Slot", names, default=changed[0], format_func=as_written, required=True, key="slot")


def tokens(prompt: Prompt, probe: Probe) -> None:
    """Draw the utterance's tokens with ids and code-point offsets."""
    span = prompt.utterance_span
    ids = prompt.ids[span.start : span.end]
    cells = "".join(
        '<span style="display:inline-block;border:1px solid #8886;border-radius:4px;padding:1px 5px;margin:2px;'
        f'text-align:center;white-space:pre">{escape(prompt.utterance[start:end]) or "&nbsp;"}'
        f'<br><small style="opacity:.65">{token} · {start}–{end}</small></span>'
        for token, (start, end) in zip(ids, prompt.offsets, strict=True)
    )
    st.html(f'<div style="line-height:1.25;font-size:.9rem">{cells}</div>')
    st.caption(f"{len(ids)} tokens of the utterance, {len(prompt.ids)} of the prompt. Below each: id · code points.")


def norms(found: Diagnosis, prompt: Prompt, probe: Probe) -> None:
    """Draw norms a token of both arms."""
    st.subheader("Norms a token")
    st.plotly_chart(charts.norms(found.arms, probe.builder.tokens(prompt.ids)), key="norms")


def slot_evidence(found: Diagnosis, slot: str, prompt: Prompt) -> None:
    """Draw scores and ladder of one slot."""
    words = [prompt.utterance[start:end] for start, end in prompt.offsets]
    index = [s.slot for s in found.arms[0].slots].index(slot)
    st.subheader("Start and end scores")
    st.plotly_chart(charts.scores(found.arms, index, words), key="scores")
    if not found.ladder:
        return
    st.subheader("One factor at a time")
    st.plotly_chart(charts.waterfall(found, slot), key="waterfall")
    for shares in found.shares:
        if shares.slot == slot:
            listed = ", ".join(f"{factor} {100 * share:.0f} %" for factor, share in shares.shares if share)
            lead = "The order of steps matters; Shapley shares" if shares.order_matters else "One factor changes it"
            st.caption(f"{lead}: {listed}.")
    _steps(found)


def _steps(found: Diagnosis) -> None:
    """Draw all answers of the baseline, then what each step makes of them."""
    rows = []
    for place, step in enumerate(found.ladder):
        told = [
            f"{slot.slot}: {answer_text(slot.value)}{_MARK[right]}"
            for slot, right in zip(step.slots, step.right, strict=True)
            if place == 0 or slot.slot in step.changed
        ]
        rows.append({"step": step.factor, "answers, then changes": " · ".join(told) or "nothing changes"})
    st.html(sheet(rows, key="steps", cards=False))


_MARK = {None: "", True: " ✓", False: " ✗"}


def geometry(found: Diagnosis, prompt: Prompt, probe: Probe) -> None:
    """Draw flip band and certificate, and the agreement of states."""
    words = probe.builder.tokens(prompt.ids)
    if found.geometry:
        st.subheader("Null decision: weight part against bias")
        st.plotly_chart(charts.band(found), key="band")
        st.subheader("Certificate of the pointers")
        rows = [
            {"slot": c.slot, "start survives": _yes(c.start), "end survives": _yes(c.end), "certified": _yes(c.certified)}
            for c in found.certificates
        ]
        st.html(sheet(rows, key="certificates", cards=False))
        st.caption("Whether the pointer stays where it is when every token's state is divided by its own norm.")
    if found.cosine:
        st.subheader("Agreement of the states with the baseline's")
        st.plotly_chart(charts.cosine(found, words), key="cosine")


def _yes(holds: bool) -> str:
    return "✓" if holds else "✗"
