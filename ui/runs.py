"""Starting, watching and choosing evaluation runs."""

import hashlib
import os
from datetime import datetime
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from backend import jobs
from backend.errors import BackendError, InputError
from backend.plan import Plan
from backend.store import Run, Store
from backend.store_path import data_files
from ui.frame import Context, show_error

_TABLES_S = 5.0  # between two looks at the tables of a run that goes on


def new_run(context: Context, store: Store) -> None:
    """Draw the form; a set that cannot be used gets its message, and the form keeps what was chosen."""
    first = not store.runs()
    with st.expander("New run", expanded=first, icon=":material/add:", on_change="rerun", key="new-run") as opened:
        # a folded form costs the browser as much as an open one; once it was open, what was chosen in it must stay
        if opened.open:
            st.session_state["new-run-drawn"] = True
        if "new-run-drawn" not in st.session_state:
            return
        names = [spec.name for spec in context.bundle.runtimes]
        chosen = st.pills("Runtimes", names, selection_mode="multi", default=names[:2], key="new-runtimes")
        upload = st.file_uploader("Dataset (JSONL, SQuAD v2 JSON or CSV; none: the bundle's)", key="upload")
        files = data_files()
        stored = None
        if files:
            stored = st.selectbox(
                "or one of the data folder",
                files,
                index=None,
                format_func=lambda path: path.name,
                placeholder="choose a file",
                key="data-file",
            )
        left, middle, right = st.columns(3, vertical_alignment="bottom")
        limit = left.number_input("At most this many examples", min_value=1, value=200, key="limit")
        both = middle.toggle("All toggle combinations", value=True, key="matrix-toggle")
        skip_bad = right.checkbox("Leave bad rows out and count them", key="skip-bad")
        if st.button("Start", type="primary", key="start"):
            try:
                dataset = _saved(upload, store.path.parent) if upload else stored or context.bundle.dataset
                if dataset is None or not chosen:
                    raise InputError("Nothing to run", remedy="Choose a runtime and a dataset.")
                plan = Plan(
                    bundle=context.bundle,
                    specs=tuple(context.bundle.runtime(name) for name in names if name in chosen),
                    loras=(True, False) if both else (True,),
                    normalizes=(False, True) if both else (False,),
                    dataset=dataset,
                    limit=int(limit),
                    skip_bad=skip_bad,
                )
                with st.spinner("Checking every row of the dataset"):
                    st.session_state["evaluation"] = jobs.start(store.path, plan)
                st.rerun()
            except BackendError as error:
                show_error(error)


def choose(store: Store) -> Run | None:
    """Draw the list of runs and return the chosen one, the newest unless somebody chose."""
    found = {run.id: run for run in store.runs()}
    if not found:
        return None
    if st.session_state.get("evaluation") not in found:
        asked = st.query_params.get("evaluation", "")
        named = int(asked) if asked.isdecimal() and len(asked) < 10 else None
        st.session_state["evaluation"] = named if named in found else next(iter(found))
    number = st.selectbox("Run", list(found), format_func=lambda i: title(found[i]), key="evaluation")
    # not bound: a bound list would put its whole label into the address; and not "run", which Diagnose reads
    st.query_params["evaluation"] = str(number)
    return found[number]


def progress(store: Store, run: Run) -> None:
    """Draw how far a run is, once a second while it runs, and what can be done with it."""
    running = jobs.is_alive(run)
    path = store.path  # a fragment runs after the page has closed its store

    @st.fragment(run_every=1 if running else None)
    def bar() -> None:
        with Store(path) as own:
            now = own.run(run.id)
        alive = jobs.is_alive(now)
        st.progress(now.done / now.total, _standing(now, alive=alive))
        if now.message:
            st.code(now.message, language=None, wrap_lines=True)
        fresh = now.created + _TABLES_S * ((datetime.now().timestamp() - now.created) // _TABLES_S)
        due = now.done > run.done and datetime.now().timestamp() - fresh < 1
        if running and (not alive or due):
            st.rerun()  # the tables too

    bar()
    if run.state == "running" and not running:
        st.caption(
            f"Its process is gone; what it wrote is in run-{run.id}.log beside the store. Resume goes on where it was."
        )
    if skipped := run.settings["skipped"]["count"]:
        with st.expander(f"{skipped} bad rows left out", key="skipped"):
            st.code("\n".join(run.settings["skipped"]["reasons"]), language=None, wrap_lines=True)
    with st.container(horizontal=True):
        if running:
            for label, wanted in (("Pause", "pause"), ("Cancel", "cancel")):
                if st.button(label, key=wanted):
                    store.update(run.id, wanted=wanted)
                    st.rerun()
        elif run.done < run.total and st.button("Resume", key="resume"):
            jobs.resume(store.path, run.id)
            st.rerun()
        if not running and st.button("Delete run", key="delete"):
            store.delete(run.id)
            st.session_state.pop("evaluation", None)
            st.rerun()


def _standing(run: Run, *, alive: bool) -> str:
    """Return state, count, rate and what is left."""
    interrupted = run.state == "running" and not alive
    text = f"{'interrupted' if interrupted else run.state}: {run.done:,} of {run.total:,} prompts"
    if alive and run.rate:
        text += f", {run.rate:.0f} a second, {(run.total - run.done) / run.rate:.0f} s left"
    return text


def title(run: Run) -> str:
    """Return what tells a run from others; nothing that changes, for the browser keeps the label it drew first."""
    when = datetime.fromtimestamp(run.created).strftime("%d %b %H:%M")
    name = Path(str(run.settings["dataset"])).name
    return f"{run.id} · {when} · {name} · {', '.join(run.settings['runtimes'])}"


def _saved(upload: UploadedFile, folder: Path) -> Path:
    """Keep an uploaded set beside the store, under its digest: the run must find it again after a restart."""
    content, name = upload.getvalue(), Path(upload.name).name[-80:]
    place = folder / "uploads" / hashlib.sha256(content).hexdigest()[:12]
    part = place / f".{os.getpid()}.part"
    try:
        place.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(place / name)  # whole or not at all
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise InputError(
            "The upload cannot be kept", found=str(error)[:120], remedy="Free some disk space, or rename the file."
        ) from error
    return place / name
