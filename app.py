"""Playground: paste an utterance, choose a function, see which words the probe reads as which slot."""

import streamlit as st

from backend.bundle import DEMO, load_bundle
from backend.errors import BackendError
from backend.norms import norm_stats
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from ui.spans import lane


@st.cache_resource(show_spinner="Loading the demo bundle")
def _loaded():
    bundle = load_bundle(DEMO)
    return bundle.load_probe(), load_schemas(bundle.schemas), HFRuntime.load(bundle.runtimes[0])


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="Probe Parity", layout="wide")
    st.title("Playground")
    probe, schemas, runtime = _loaded()
    names = sorted(schemas)
    function = st.selectbox("Function", names, index=names.index("book_flight"), key="function")
    text = st.text_area("Utterance", "Fly me from Boston to Seattle next Friday", key="utterance")
    normalize = st.toggle("L2 normalisation", key="normalize")
    lora = st.toggle("LoRA", value=True, key="lora")
    try:
        prompt = probe.builder.build(schemas[function], text)
        states = runtime.forward([prompt.ids], ForwardOptions(normalize=normalize, lora=lora))[0]
        slots = probe.predict(prompt, states)
    except BackendError as error:
        st.code(str(error), language=None, wrap_lines=True)  # plain text: it may quote what was pasted
        return
    stats = norm_stats(states)
    effect = f"L2 {'on' if normalize else 'off'}, LoRA {'on' if lora else 'off'}, mean norm {stats.mean:.2f}"
    st.caption(f"{runtime.spec.name} · {effect}")
    st.html(lane(text, slots))
    st.dataframe(
        [{"slot": s.slot, "value": s.value or "", "present": s.present, "margin": round(s.null_margin, 2)} for s in slots],
        hide_index=True,
    )


# A spawned child imports this file under another name and must not draw.
if __name__ == "__main__":
    main()
