"""Diagnose: which factor caused one answer, with the evidence."""

import streamlit as st

from backend.bundle import Bundle
from backend.diagnose_request import Request, run_request
from backend.errors import BackendError
from backend.pool import State
from backend.probe import Decoding
from ui import evidence, frame, questions


def main() -> None:
    """Draw the page."""
    context = frame.page("Diagnose")
    try:
        request = _request(context.bundle)
        question = questions.question(context)
        if question is None:
            st.info("Type an utterance, or choose an example.", icon=":material/edit:")
            return
        _load(context, request)
        found = run_request(
            context.bundle,
            context.probe,
            context.pool,
            question.prompt,
            request,
            cache=context.states,
            gold=question.gold,
            wait=False,
        )
    except BackendError as error:
        frame.show_error(error)
        return
    evidence.verdicts(found)
    evidence.tokens(question.prompt, context.probe)
    slot = evidence.choose_slot(found)
    left, right = st.columns(2, gap="medium")
    with left:
        evidence.slot_evidence(found, slot, question.prompt)
        evidence.norms(found, question.prompt, context.probe)
    with right:
        evidence.geometry(found, question.prompt, context.probe)
    st.caption("The address of this page opens the same example with the same toggles; a pasted text is never in it.")


def _load(context: frame.Context, request: Request) -> None:
    specs = (request.baseline, request.candidate)
    if any(context.pool.request(spec).state is State.LOADING for spec in specs):
        with st.spinner("Loading; an engine takes half a minute on two cores"):
            for spec in specs:
                context.pool.get(spec, timeout_s=300)
        st.rerun()  # the sidebar shows what is loaded now


def _request(bundle: Bundle) -> Request:
    names = [spec.name for spec in bundle.runtimes]
    left, right = st.columns(2)
    baseline = left.selectbox("Baseline", names, key="baseline", bind="query-params")
    candidate = right.selectbox("Candidate", names, index=min(1, len(names) - 1), key="candidate", bind="query-params")
    with st.container(horizontal=True):
        normalize = st.toggle("Candidate normalises", key="normalize", bind="query-params")
        lora = st.toggle("Candidate uses LoRA", value=True, key="lora", bind="query-params")
        joint = st.toggle("Candidate decodes jointly", key="joint", bind="query-params")
    return Request(
        bundle.runtime(baseline),
        bundle.runtime(candidate),
        normalize=normalize,
        lora=lora,
        decoding=Decoding.JOINT if joint else Decoding.UPSTREAM,
    )


if __name__ == "__main__":
    main()
