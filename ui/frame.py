"""What every page begins with: the bundle, the shared pool of runtimes, and the sidebar that shows their state."""

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

import streamlit as st

from backend.bundle import DEMO, Bundle, load_bundle
from backend.errors import BackendError
from backend.pool import Pool, State
from backend.probe import Probe
from backend.schema import FunctionSchema, load_schemas
from ui.charts import runtime_colour

PAGES = (
    ("app.py", "Playground", ":material/edit_note:"),
    ("pages/Evaluate.py", "Evaluate", ":material/table_chart:"),
    ("pages/Diagnose.py", "Diagnose", ":material/troubleshoot:"),
    ("pages/Norms.py", "Norms", ":material/straighten:"),
    ("pages/Health.py", "Health", ":material/monitor_heart:"),
)
_DOT = {State.IDLE: "○", State.LOADING: "◔", State.READY: "●", State.FAILED: "✕"}


@dataclass(frozen=True, slots=True)
class Context:
    """What pages share; none of it belongs to one session, so pages must not change it."""

    bundle: Bundle
    probe: Probe
    schemas: dict[str, FunctionSchema]
    pool: Pool


@st.cache_resource(show_spinner="Loading the bundle")
def _context(folder: str) -> Context:
    bundle = load_bundle(Path(folder))
    return Context(bundle, bundle.load_probe(), load_schemas(bundle.schemas), Pool())


def page(title: str) -> Context:
    """Set the page up and draw the sidebar; a bundle that cannot be read ends the script with what to do."""
    st.set_page_config(page_title=f"{title} · Probe Parity", page_icon="≡", layout="wide")
    try:
        context = _context(os.environ.get("PROBE_PARITY_BUNDLE", str(DEMO)))
    except BackendError as error:
        show_error(error)
        st.stop()
    with st.sidebar:
        st.markdown("**Probe Parity**")
        st.caption(f"bundle: {context.bundle.folder.name if context.bundle.folder != DEMO else 'demo'}")
        for path, label, icon in PAGES:
            st.page_link(path, label=label, icon=icon)
        _chips(context)
    st.title(title)
    return context


def show_error(error: BackendError) -> None:
    """Show one message as plain text: it may quote what was pasted, which must not be run or fetched."""
    st.code(str(error), language=None, wrap_lines=True)


def _chips(context: Context) -> None:
    """Draw one chip a runtime; redraw every second only while one loads."""
    loading = any(context.pool.status(spec).state is State.LOADING for spec in context.bundle.runtimes)

    @st.fragment(run_every=1 if loading else None)
    def chips() -> None:
        states = [context.pool.status(spec) for spec in context.bundle.runtimes]
        for index, (spec, status) in enumerate(zip(context.bundle.runtimes, states, strict=True)):
            seconds = f" {status.elapsed_s:.0f} s" if status.state is State.LOADING else ""
            left, right = st.columns([3, 2], vertical_alignment="center")
            left.html(
                f'<div style="font-size:.85rem;line-height:1.3"><span style="color:{runtime_colour(index)}">'
                f"{_DOT[status.state]}</span> {escape(spec.name)}<br>"
                f'<small style="opacity:.65">{status.state}{seconds}</small></div>'
            )
            live = status.state in (State.READY, State.LOADING, State.FAILED)
            if right.button("Unload" if live else "Load", key=f"chip-{spec.name}", width="stretch"):
                (context.pool.unload if live else context.pool.request)(spec)
                st.rerun()
        if loading and not any(status.state is State.LOADING for status in states):
            st.rerun()  # the whole page: lanes can answer now

    chips()
