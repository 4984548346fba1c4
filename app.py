"""Playground: type an utterance, see which words each runtime reads as which slot."""

import streamlit as st

from ui import frame, landing


def main() -> None:
    """Draw the page."""
    context = frame.page("Playground", intro=landing.show)
    # the introduction is on screen by now: plotting and tables take a second to import
    from backend.errors import BackendError
    from backend.inference import run_on_all
    from backend.probe import Decoding
    from backend.runtimes.base import ForwardOptions
    from ui import inputs, lanes

    try:
        schema, text = inputs.function_and_text(context)
        specs, decoding = inputs.runtimes_and_decoding(context)
        toggles = st.container(horizontal=True, key="toggles")
        options = ForwardOptions(normalize=inputs.toggled("normalize"), lora=inputs.toggled("lora", default=True))
        if not text.strip():
            inputs.toggles(toggles, options, None)
            lanes.empty_state()
            return
        prompt = context.probe.builder.build(schema, text)
    except BackendError as error:
        frame.show_error(error)
        return
    how = Decoding(decoding)
    outcomes = run_on_all(context.pool, specs, context.probe, prompt, options, decoding=how, cache=context.states)
    inputs.toggles(toggles, options, next((o.run for o in outcomes if o.run), None))
    landing.point_out(context, prompt, outcomes, options)
    gold = inputs.gold_of(context, schema.name, prompt)
    lanes.show(context, prompt, outcomes, gold)
    lanes.table(outcomes, gold)
    lanes.norms(context, prompt, outcomes)


# A spawned child imports this file under another name and must not draw.
if __name__ == "__main__":
    main()
