"""What every page begins with: the bundle, the shared pool of runtimes, and the sidebar that shows their state."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.bundle import Bundle, load_bundle
from backend.bundles import list_bundles
from backend.errors import BackendError, PrerequisiteError
from backend.pool import Pool
from backend.probe import Probe
from backend.recorded import can_load_models, configured
from backend.schema import FunctionSchema, load_schemas
from backend.state_cache import StateCache
from ui import access, chips, sheet
from ui.markdown import as_written

PAGES = (
    ("app.py", "Playground", ":material/edit_note:"),
    ("pages/Evaluate.py", "Evaluate", ":material/table_chart:"),
    ("pages/Diagnose.py", "Diagnose", ":material/troubleshoot:"),
    ("pages/Norms.py", "Norms", ":material/straighten:"),
    ("pages/Health.py", "Health", ":material/monitor_heart:"),
)


@dataclass(frozen=True, slots=True)
class Context:
    """What pages share; none of it belongs to one session, so pages must not change it."""

    bundle: Bundle
    schemas: dict[str, FunctionSchema]
    pool: Pool
    states: StateCache  # what runtimes answered, so that a toggle back asks nothing

    @property
    def probe(self) -> Probe:
        """Tokenizer and heads, loaded once: they need torch, which the first look at a page must not wait for."""
        return _probe(str(self.bundle.folder))


@st.cache_resource(show_spinner=False)
def _context(folder: str) -> Context:
    bundle = load_bundle(Path(folder))
    return Context(bundle, load_schemas(bundle.schemas), _pool(), _states())


@st.cache_resource(show_spinner=False)
def _pool() -> Pool:
    return Pool()


@st.cache_resource(show_spinner=False)
def _states() -> StateCache:
    return StateCache()


@st.cache_resource(show_spinner="Loading tokenizer and heads: a few seconds, once")
def _probe(folder: str) -> Probe:
    if not can_load_models():
        raise PrerequisiteError(
            "This page loads a model, and torch or transformers is not installed",
            remedy="Install requirements.txt, or name a file of `python -m backend record` in PROBE_PARITY_RECORDING.",
        )
    return load_bundle(Path(folder)).load_probe()


def page(title: str, *, intro: Callable[[Context], None] = lambda _: None, needs_probe: bool = True) -> Context:
    """Set the page up and draw the sidebar; a bundle that cannot be read ends the script with what to do.

    Args:
        title: of the page.
        intro: draws what needs no model, before one is loaded.
        needs_probe: whether the page asks a model. With a recording in its place, such a page shows that, and ends.
    """
    # an emoji is drawn by the browser itself: any other sign is asked of the server, which answers with the whole page
    st.set_page_config(page_title=f"{title} · Probe Parity", page_icon="⚖️", layout="wide")
    access.require()
    st.html(sheet.STYLE)
    with st.sidebar:
        st.markdown("**Probe Parity**")
        folder = _bundle()
        for path, label, icon in PAGES:
            st.page_link(path, label=label, icon=icon)
    st.title(title)  # also above an error
    try:
        context = _context(str(folder))
        recording = configured(folder)
        if recording is None:
            with st.sidebar:
                _chips(context)
        if recording is not None:
            _recorded(recording, title, needs_probe=needs_probe)
        intro(context)
        if needs_probe and recording is None:
            _ = context.probe
    except BackendError as error:
        show_error(error)
        st.stop()
    return context


def _recorded(recording: Path, title: str, *, needs_probe: bool) -> None:
    """Draw the recording where a page would ask a model."""
    from ui import recorded

    recorded.notice(recording)
    if not needs_probe:
        return
    if title == "Playground":
        recorded.playground(recording)
    else:
        st.info("This page asks live runtimes. A recording answers the Playground.", icon=":material/radio_button_checked:")
    st.stop()


def _bundle() -> Path:
    """Draw the choice of bundles, where there is one, and return the chosen one's folder."""
    known = list_bundles()
    if len(known) == 1:
        st.caption(f"bundle: {as_written(next(iter(known)))}")
        return next(iter(known.values()))
    name = st.selectbox(
        "Bundle", list(known), key="bundle", bind="query-params", persist_state="session", on_change=_forget_choices
    )
    return known[name]


def _forget_choices() -> None:
    """Another bundle has other functions and runtimes."""
    for key in [key for key in st.session_state if key not in ("bundle", access.KEY)]:
        del st.session_state[key]


def show_error(error: BackendError) -> None:
    """Show one message as plain text: it may quote what was pasted, which must not be run or fetched."""
    st.code(str(error), language=None, wrap_lines=True)


def _chips(context: Context) -> None:
    chips.show(context.bundle, context.pool)
