"""Norms: what dividing states by their norms would do, over a stored run or a pasted text, and what mends it."""

from collections.abc import Sequence

import streamlit as st

from backend.bundle import Bundle
from backend.errors import BackendError
from backend.norm_survey import NullTable, TokenNorms, decisions, live_table, stored_table, survey_tokens, sweep
from backend.pool import State
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.schema import get_schema
from backend.store import Store
from backend.store_path import default_store
from backend.stored_examples import sample_questions
from ui import frame, inputs, norm_charts, runs
from ui.sheet import percent, sheet

_SAMPLE = 50  # examples whose states are computed anew for token norms and certificates
_TEXT, _RUN = "Pasted text", "Stored run"


def main() -> None:
    """Draw the page."""
    context = frame.page("Norms")
    st.caption("Raw hidden states with LoRA on. Norms near one another keep pointers; null decisions depend on their size.")
    try:
        source = st.segmented_control("Over", [_TEXT, _RUN], default=_TEXT, required=True, key="over")
        specs = _runtimes(context.bundle)
        if source == _RUN:
            _stored(context, specs)
        else:
            schema, text = inputs.function_and_text(context)
            if not text.strip():
                st.info("Type an utterance, or choose an example.", icon=":material/edit:")
                return
            _live(context, specs, [context.probe.builder.build(schema, text)])
    except BackendError as error:
        frame.show_error(error)


def _runtimes(bundle: Bundle) -> list[RuntimeSpec]:
    names = [spec.name for spec in bundle.runtimes]
    chosen = st.pills("Runtimes", names, selection_mode="multi", default=names[:2], key="norm-runtimes") or names[:1]
    return [bundle.runtime(name) for name in names if name in chosen]


def _stored(context: frame.Context, specs: Sequence[RuntimeSpec]) -> None:
    with Store(default_store()) as store:
        run = runs.choose(store)
        if run is None:
            st.info("No run yet. Start one on the Evaluate page.", icon=":material/table:")
            return
        tables = {
            spec.name: stored_table(store, run.id, spec.name, context.probe)
            for spec in specs
            if spec.name in run.settings["runtimes"]
        }
        pairs = sample_questions(store, run.id, limit=_SAMPLE)
    prompts = context.probe.builder.build_many([(get_schema(context.schemas, f), text) for f, text in pairs])
    _draw(context, tables, _token_norms(context, specs, prompts), f"a sample of {len(prompts)} examples")


def _live(context: frame.Context, specs: Sequence[RuntimeSpec], prompts: list[Prompt]) -> None:
    ready = [spec for spec in specs if _loaded(context, spec)]
    states = {spec.name: _states(context, spec, prompts) for spec in ready}
    tables = {name: live_table(context.probe, prompts, rows) for name, rows in states.items()}
    tokens = {name: survey_tokens(context.probe, prompts, rows) for name, rows in states.items()}
    _draw(context, tables, tokens, "this text")


def _token_norms(context: frame.Context, specs: Sequence[RuntimeSpec], prompts: Sequence[Prompt]) -> dict[str, TokenNorms]:
    ready = [spec for spec in specs if _loaded(context, spec)]
    return {spec.name: survey_tokens(context.probe, prompts, _states(context, spec, prompts)) for spec in ready}


def _loaded(context: frame.Context, spec: RuntimeSpec) -> bool:
    if context.pool.request(spec).state is State.LOADING:
        with st.spinner(f"Loading {spec.name}; an engine takes half a minute on two cores"):
            context.pool.get(spec, timeout_s=300)
        st.rerun()
    return True


def _states(context: frame.Context, spec: RuntimeSpec, prompts: Sequence[Prompt]) -> list:
    runtime = context.pool.get(spec)
    return runtime.forward([prompt.ids for prompt in prompts], ForwardOptions(lora=runtime.info.has_adapter))


def _draw(context: frame.Context, tables: dict[str, NullTable], tokens: dict[str, TokenNorms], over: str) -> None:
    places = {spec.name: index for index, spec in enumerate(context.bundle.runtimes)}
    summary = [
        {
            "runtime": name,
            "mean norm": f"{found.mean:.3f}",
            "CV": percent(found.cv, places=2),
            "pointers certified": percent(found.certified / found.n_slots),
            "null decisions in the flip band": percent(tables[name].in_band if name in tables else None),
            "n tokens": len(found.norms),
            "n slots": found.n_slots,
        }
        for name, found in tokens.items()
    ]
    st.html(sheet(summary, key="norm-table"))
    st.subheader("Distribution of token norms")
    st.plotly_chart(norm_charts.distributions(tokens, places), key="norm-distributions")
    st.caption(f"Over {over}.")
    if tables:
        _null_decisions(tables, places)


def _null_decisions(tables: dict[str, NullTable], places: dict[str, int]) -> None:
    known = all(table.gold is not None for table in tables.values())
    st.subheader("Scale of normalised states")
    label = "presence accuracy, %" if known else "decisions as on raw states, %"
    st.plotly_chart(
        norm_charts.sweeps({name: sweep(t) for name, t in tables.items()}, places, label=label), key="norm-sweep"
    )
    st.subheader("Hot fix: b' = b / mean(n)")
    rows = [
        {
            "runtime": name,
            "states": d.name,
            "presence accuracy": percent(d.accuracy, places=2),
            "flips against raw": d.flips,
            "n slots": d.n,
        }
        for name, table in tables.items()
        for d in decisions(table)
    ]
    if not known:
        rows = [{name: value for name, value in row.items() if name != "presence accuracy"} for row in rows]
    st.html(sheet(rows, key="norm-fix"))
    st.caption(
        "Where normalisation cannot be switched off, dividing the null bias by the mean norm of the slots' query states "
        "undoes most of it."
    )


if __name__ == "__main__":
    main()
