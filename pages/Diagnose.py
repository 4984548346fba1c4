"""Diagnose: which factor caused one answer, with the evidence."""

import streamlit as st

from backend.bundle import Bundle
from backend.check_files import file_checks
from backend.diagnosis import Arm, diagnose
from backend.errors import BackendError
from backend.pool import State
from backend.probe import Decoding
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.scoring import decoded_gold
from ui import evidence, frame, inputs


def main() -> None:
    """Draw the page."""
    context = frame.page("Diagnose")
    try:
        schema, text = inputs.function_and_text(context)
        baseline, candidate, options, decoding = _arms(context.bundle)
        if not text.strip():
            st.info("Type an utterance, or choose an example.", icon=":material/edit:")
            return
        prompt = context.probe.builder.build(schema, text)
        states = [context.pool.request(spec) for spec in (baseline, candidate)]
        if any(status.state is State.LOADING for status in states):
            with st.spinner("Loading; an engine takes half a minute on two cores"):
                for spec in (baseline, candidate):
                    context.pool.get(spec, timeout_s=300)
            st.rerun()  # the sidebar shows what is loaded now
        files = tuple(file_checks(candidate, context.bundle.base, trained=context.bundle.adapter))
        gold = inputs.gold_of(context, schema.name, prompt)
        found = diagnose(
            context.probe,
            prompt,
            Arm(context.pool.get(baseline), ForwardOptions()),
            Arm(context.pool.get(candidate), options, Decoding(decoding), files),
            gold=decoded_gold(gold, prompt, context.probe.builder) if gold is not None else None,
        )
    except BackendError as error:
        frame.show_error(error)
        return
    evidence.verdicts(found)
    evidence.ladder(found)
    evidence.plots(found, context.probe.builder.tokens(prompt.ids))


def _arms(bundle: Bundle) -> tuple[RuntimeSpec, RuntimeSpec, ForwardOptions, str]:
    names = [spec.name for spec in bundle.runtimes]
    left, right = st.columns(2)
    baseline = left.selectbox("Baseline", names, key="baseline-arm", bind="query-params")
    candidate = right.selectbox("Candidate", names, index=min(1, len(names) - 1), key="candidate-arm", bind="query-params")
    with st.container(horizontal=True):
        normalize = st.toggle("Candidate normalises", key="candidate-normalize", bind="query-params")
        lora = st.toggle("Candidate uses LoRA", value=True, key="candidate-lora", bind="query-params")
        joint = st.toggle("Candidate decodes jointly", key="candidate-joint", bind="query-params")
    options = ForwardOptions(normalize=normalize, lora=lora)
    return bundle.runtime(baseline), bundle.runtime(candidate), options, "joint" if joint else "upstream"


if __name__ == "__main__":
    main()
