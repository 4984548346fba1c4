"""The first minute: what this is, the bundle's own figures, each failure one click away, and what the click changed."""

from collections.abc import Sequence

import streamlit as st

from backend.inference import Outcome, RuntimeRun, run
from backend.prompt import Prompt
from backend.results import Failure, Results, load_results
from backend.runtimes.base import ForwardOptions
from backend.story import TRAINED
from ui import figures, story
from ui.frame import Context
from ui.sheet import percent

_WHAT = (
    "A slot probe reads values such as *origin* or *date* straight out of a language model's hidden states, without "
    "generating text. This page shows whether what it read under HuggingFace survives vLLM, in FP16 and in AWQ 4-bit, and "
    "which setting is to blame where it does not."
)


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
    """Draw the story's step: why it happens, and what it changed of this text just now."""
    results, step = load_results(context.bundle.folder), st.session_state.get("story")
    if step is None or results is None or step >= len(results.failures):
        return
    failure = results.failures[step]
    if failure.slot and (prompt.function, prompt.utterance) != (failure.function, failure.utterance):
        return  # gold of another text is not known
    runs = _runs(context, prompt, outcomes, options)
    story.box(results.failures, step, runs, tell=lambda place: _tell(results, place), end=_end)


def _runs(
    context: Context, prompt: Prompt, outcomes: Sequence[Outcome], options: ForwardOptions
) -> tuple[RuntimeRun, RuntimeRun] | None:
    """Ask the first live runtime once more, as the probe was trained; None while all of them load."""
    asked = next(((o.spec, o.run) for o in outcomes if o.run is not None), None)
    if asked is None:
        return None
    spec, found = asked
    if options == TRAINED:
        return found, found
    return run(context.probe, prompt, context.pool.get(spec, timeout_s=0), TRAINED, cache=context.states), found


def _cards(results: Results, names: Sequence[str]) -> None:
    for place, (column, failure) in enumerate(zip(st.columns(3), results.failures, strict=False)):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{failure.name}**  \n{_effect(results, names[0], failure)}")
            st.button("Show me", key=f"story-{place}", on_click=_tell, args=(results, place), width="stretch")


def _effect(results: Results, baseline: str, failure: Failure) -> str:
    before, after = results.figure(baseline, TRAINED), results.figure(baseline, failure.options)
    if before is None or after is None:
        return ""
    if failure.slot:
        return f"exact match {percent(before.exact_match)} looks like {percent(before.raw)}"
    if failure.normalize:
        return f"presence {percent(before.presence)} → {percent(after.presence)}"
    return f"exact match {percent(before.exact_match)} → {percent(after.exact_match)}"


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
