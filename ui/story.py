"""The guided story's box: which step, why it happens, where to look in this text, and the way on."""

from collections.abc import Callable, Sequence
from html import escape

import streamlit as st

from backend.answers import ABSENT
from backend.inference import RuntimeRun
from backend.results import Failure, changes
from backend.story import where_to_look
from ui.theme import MUTED

_WHY = {
    "normalisation on": "vLLM divides every state by its norm unless told not to. What the text says about absence "
    "shrinks, the bias of that decision does not: slots that nobody mentioned are read as present.",
    "LoRA off": "The engine dropped the adapter without a word, and the heads read states they were never trained on.",
    "raw gold": "Nothing is wrong with the answer. The evaluation compares it with the label's own string instead of the "
    "text of the label's tokens, and tokens do not end where labels do.",
}


def box(
    failures: Sequence[Failure],
    step: int,
    runs: tuple[RuntimeRun, RuntimeRun] | None,
    *,
    tell: Callable[[int], None],
    end: Callable[[], None],
) -> None:
    """Draw one step.

    Args:
        failures: all steps.
        step: place of the present one.
        runs: this text as trained and under the step's options, of one runtime; None while that runtime loads.
        tell: called with the place of the step that a button leads to.
        end: called by the last button.
    """
    failure = failures[step]
    with st.container(border=True, key="story"):
        st.markdown(f"**{step + 1} of {len(failures)} · {failure.name}**")
        st.markdown(_WHY[failure.name])
        if runs is None:
            st.html("<small>The runtime is still loading; what changes is listed here in a moment.</small>")
        else:
            st.html(f"<b>{escape(where_to_look(failure, *runs))}</b>")
            st.html(_listed(failure, *runs))
        with st.container(horizontal=True):
            if step:
                st.button("Previous", key="story-back", on_click=tell, args=(step - 1,))
            if step + 1 < len(failures):
                after = failures[step + 1].name
                st.button(f"Next: {after}", key="story-next", type="primary", on_click=tell, args=(step + 1,))
            st.button("End and mend", key="story-end", on_click=end)


def _listed(failure: Failure, healthy: RuntimeRun, broken: RuntimeRun) -> str:
    if failure.slot:
        read = next((slot.value for slot in healthy.slots if slot.slot == failure.slot), None)
        pairs = [("read", read), ("text of the gold tokens", failure.decoded), ("raw label", failure.raw)]
        marks = ["", " ✓" if read == failure.decoded else " ✗", " ✓" if read == failure.raw else " ✗"]
        return _list([f"{escape(name)}: {_value(value)}{mark}" for (name, value), mark in zip(pairs, marks, strict=True)])
    return _list(
        [f"{escape(c.slot)}: {_value(c.before)} → {_value(c.after)}" for c in changes(healthy.slots, broken.slots)]
    )


def _value(value: str | None) -> str:
    return f"<code>{escape(value)}</code>" if value is not None else f"<span style='{MUTED}'>{ABSENT}</span>"


def _list(lines: Sequence[str]) -> str:
    return "<ul style='margin:0;padding-left:1.2rem'>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
