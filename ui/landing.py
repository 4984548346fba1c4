"""The first minute: what this is, the bundle's own figures, each failure one click away, and what the click changed."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from backend.inference import Outcome, run
from backend.prompt import Prompt
from backend.results import Failure, Results, changes, load_results
from backend.runtimes.base import ForwardOptions
from ui import figures
from ui.frame import Context
from ui.theme import MUTED

_TRAINED = ForwardOptions()
_WHAT = (
    "A slot probe reads values such as *origin* or *date* straight out of a language model's hidden states, without "
    "generating text. This page shows whether what it read under HuggingFace survives vLLM, in FP16 and in AWQ 4-bit, and "
    "which setting is to blame where it does not."
)
_WHY = {
    "normalisation on": "vLLM divides every state by its norm unless told not to. What the text says about absence "
    "shrinks, the bias of that decision does not: slots that nobody mentioned are read as present.",
    "LoRA off": "The engine dropped the adapter without a word, and the heads read states they were never trained on.",
    "raw gold": "Nothing is wrong with the answer. The evaluation compares it with the label's own string instead of the "
    "text of the label's tokens, and tokens do not end where labels do.",
}


def show(context: Context) -> None:
    """Draw the introduction; open on the first visit, folded for whoever comes by a link with toggles in it."""
    if "landing-open" not in st.session_state:
        st.session_state["landing-open"] = not st.query_params.to_dict()
    results = load_results(context.bundle.folder)
    with st.expander("What this shows", expanded=st.session_state["landing-open"], icon=":material/info:"):
        st.markdown(_WHAT)
        if results is not None:
            names = [spec.name for spec in context.bundle.runtimes]
            st.html(figures.table(results, names))
            st.caption(_source(results))
            _cards(results, names)
        st.markdown("**Your own bundle**: base, adapter and heads in one folder, described and checked by")
        st.markdown("```sh\npython -m backend bundle init my-bundle --base meta-llama/Llama-3.1-8B-Instruct\n```")
        st.caption("Then `PROBE_PARITY_BUNDLE=my-bundle make run`, or `PROBE_PARITY_BUNDLES` for a folder of several.")


def point_out(context: Context, prompt: Prompt, outcomes: Sequence[Outcome], options: ForwardOptions) -> None:
    """Draw the story's step: why it happens, and which slots of this text it changed just now."""
    results, step = load_results(context.bundle.folder), st.session_state.get("story")
    if step is None or results is None or step >= len(results.failures):
        return
    failure = results.failures[step]
    with st.container(border=True, key="story"):
        st.markdown(f"**{step + 1} of {len(results.failures)} · {failure.name}**")
        st.markdown(_WHY[failure.name])
        st.html(_changed(context, prompt, outcomes, options, failure))
        with st.container(horizontal=True):
            if step:
                st.button("Back", key="story-back", on_click=_tell, args=(results, step - 1))
            if step + 1 < len(results.failures):
                after = results.failures[step + 1].name
                st.button(f"Next: {after}", key="story-next", type="primary", on_click=_tell, args=(results, step + 1))
            st.button("End and mend", key="story-end", on_click=_end)


def _changed(
    context: Context, prompt: Prompt, outcomes: Sequence[Outcome], options: ForwardOptions, failure: Failure
) -> str:
    """Ask the first live runtime once more, as the probe was trained, and list what differs."""
    asked = next(((o.spec, o.run) for o in outcomes if o.run is not None), None)
    if asked is None:
        return "<small>The runtime is still loading; what changes is listed here in a moment.</small>"
    spec, found = asked
    if failure.slot and options == _TRAINED:
        read = next((slot.value for slot in found.slots if slot.slot == failure.slot), None)
        pairs = [("read", read), ("text of the gold tokens", failure.decoded), ("raw label", failure.raw)]
        marks = ["", " ✓" if read == failure.decoded else " ✗", " ✓" if read == failure.raw else " ✗"]
        return _list([f"{escape(name)}: {_value(value)}{mark}" for (name, value), mark in zip(pairs, marks, strict=True)])
    healthy = run(context.probe, prompt, context.pool.get(spec, timeout_s=0), _TRAINED, cache=context.states)
    lines = [f"{escape(c.slot)}: {_value(c.before)} → {_value(c.after)}" for c in changes(healthy.slots, found.slots)]
    return _list(lines or ["Nothing changed on this text."])


def _cards(results: Results, names: Sequence[str]) -> None:
    for place, (column, failure) in enumerate(zip(st.columns(3), results.failures, strict=False)):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{failure.name}**  \n{_effect(results, names[0], failure)}")
            st.button("Show me", key=f"story-{place}", on_click=_tell, args=(results, place), width="stretch")


def _effect(results: Results, baseline: str, failure: Failure) -> str:
    before, after = results.figure(baseline, _TRAINED), results.figure(baseline, failure.options)
    if before is None or after is None:
        return ""
    if failure.slot:
        return f"exact match {figures.percent(before.exact_match)} looks like {figures.percent(before.raw)}"
    if failure.normalize:
        return f"presence {figures.percent(before.presence)} → {figures.percent(after.presence)}"
    return f"exact match {figures.percent(before.exact_match)} → {figures.percent(after.exact_match)}"


def _tell(results: Results, step: int) -> None:
    failure = results.failures[step]
    st.session_state.update({"landing-open": False})  # what the step changes is to be seen without scrolling
    st.session_state.update(
        story=step,
        function=failure.function,
        utterance=failure.utterance,
        normalize=failure.normalize,
        lora=failure.lora,
        example=None,
    )


def _end() -> None:
    st.session_state.update(story=None, normalize=False, lora=True)


def _source(results: Results) -> str:
    return f"Measured on {results.dataset}, {results.n_examples:,} examples, {results.machine}; n: present slots."


def _value(value: str | None) -> str:
    return f"<code>{escape(value)}</code>" if value is not None else f"<span style='{MUTED}'>(absent)</span>"


def _list(lines: Sequence[str]) -> str:
    return "<ul style='margin:0;padding-left:1.2rem'>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
