"""Starting, watching and choosing evaluation runs."""

import hashlib
from datetime import datetime
from pathlib import Path

import streamlit as st

from backend import jobs
from backend.errors import BackendError, InputError
from backend.evaluation import Plan
from backend.store import Run, Store
from ui.frame import Context, show_error


def new_run(context: Context, store: Store) -> None:
    """Draw the form; a set that cannot be used gets its message, and the form keeps what was chosen."""
    with st.expander("New run", expanded=not store.runs(), icon=":material/add:"):
        names = [spec.name for spec in context.bundle.runtimes]
        chosen = st.pills("Runtimes", names, selection_mode="multi", default=names[:2], key="new-runtimes")
        upload = st.file_uploader("Dataset (JSONL, SQuAD v2 JSON or CSV; none: the bundle's)", key="upload")
        left, right = st.columns(2, vertical_alignment="bottom")
        limit = left.number_input("At most this many examples", min_value=1, value=200, key="limit")
        both = right.toggle("All toggle combinations", value=True, key="matrix-toggle")
        if st.button("Start", type="primary", key="start"):
            try:
                dataset = _saved(upload, store.path.parent) if upload else context.bundle.dataset
                if dataset is None or not chosen:
                    raise InputError("Nothing to run", remedy="Choose a runtime and a dataset.")
                plan = Plan(
                    bundle=context.bundle,
                    specs=tuple(context.bundle.runtime(name) for name in names if name in chosen),
                    loras=(True, False) if both else (True,),
                    normalizes=(False, True) if both else (False,),
                    dataset=dataset,
                    limit=int(limit),
                )
                with st.spinner("Checking every row of the dataset"):
                    st.session_state["run"] = jobs.start(store.path, plan)
                st.rerun()
            except BackendError as error:
                show_error(error)


def choose(store: Store) -> Run | None:
    """Draw the list of runs and return the chosen one, the newest unless somebody chose."""
    found = {run.id: run for run in store.runs()}
    if not found:
        return None
    if st.session_state.get("run") not in found:
        st.session_state["run"] = next(iter(found))
    number = st.selectbox("Run", list(found), format_func=lambda i: _title(found[i]), key="run", bind="query-params")
    return found[number]


def progress(store: Store, run: Run) -> None:
    """Draw how far a run is, once a second while it runs, and what can be done with it."""
    running = jobs.is_alive(run)

    @st.fragment(run_every=1 if running else None)
    def bar() -> None:
        now = store_run(store.path, run.id)
        left = f", {(now.total - now.done) / now.rate:.0f} s left" if now.rate and running else ""
        st.progress(now.done / now.total, f"{now.state}: batch {now.done} of {now.total}{left}")
        if now.message:
            st.code(now.message, language=None, wrap_lines=True)
        if running and not jobs.is_alive(now):
            st.rerun()

    bar()
    with st.container(horizontal=True):
        if running:
            if st.button("Refresh table", key="refresh"):
                st.rerun()
            for label, wanted in (("Pause", "pause"), ("Cancel", "cancel")):
                if st.button(label, key=wanted):
                    store.update(run.id, wanted=wanted)
                    st.rerun()
        elif run.done < run.total and st.button("Resume", key="resume"):
            jobs.resume(store.path, run.id)
            st.rerun()
        if not running and st.button("Delete run", key="delete"):
            store.delete(run.id)
            st.session_state.pop("run", None)
            st.rerun()


def store_run(path: Path, run: int) -> Run:
    """Read a run through a connection of its own: a fragment runs after the page has closed its store."""
    with Store(path) as store:
        return store.run(run)


def _title(run: Run) -> str:
    when = datetime.fromtimestamp(run.created).strftime("%d %b %H:%M")
    name = str(run.settings["dataset"]).rsplit("/", 1)[-1]
    return f"{run.id} · {when} · {name} · {', '.join(run.settings['runtimes'])} · {run.state}"


def _saved(upload: object, folder: Path) -> Path:
    """Keep an uploaded set beside the store, under its digest: the run must find it again after a restart."""
    content, name = upload.getvalue(), Path(upload.name)
    path = folder / "uploads" / f"{hashlib.sha256(content).hexdigest()[:12]}{name.suffix or '.jsonl'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
