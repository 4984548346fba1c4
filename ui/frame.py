"""What every page begins with: the bundle, the shared pool of runtimes, and the sidebar that shows their state."""

import os
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.bundle import DEMO, Bundle, load_bundle
from backend.errors import BackendError
from backend.pool import Pool
from backend.probe import Probe
from backend.schema import FunctionSchema, load_schemas
from ui import chips

PAGES = (
    ("app.py", "Playground", ":material/edit_note:"),
    ("pages/Evaluate.py", "Evaluate", ":material/table_chart:"),
    ("pages/Diagnose.py", "Diagnose", ":material/troubleshoot:"),
    ("pages/Health.py", "Health", ":material/monitor_heart:"),
)


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
    chips.show(context.bundle, context.pool)
