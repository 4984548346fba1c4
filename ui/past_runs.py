"""All runs of the store: a list, and two of them side by side."""

from datetime import datetime
from pathlib import Path

import pandas as pd
import streamlit as st

from backend.comparison import Compared, compare_runs
from backend.errors import BackendError
from backend.report import margin_text, toggles_text, verdict_text
from backend.store import Run, Store
from ui.frame import show_error
from ui.runs import title


def draw(store: Store, run: Run) -> None:
    """Draw the list, and the comparison with another run of the same dataset once one is chosen."""
    with st.expander("Past runs", on_change="rerun", key="past-runs", icon=":material/history:") as opened:
        if not opened.open:
            return
        found = store.runs()
        st.dataframe(pd.DataFrame([_row(each) for each in found]), hide_index=True, key="runs-table")
        digest = run.fingerprint["dataset"]
        others = {r.id: r for r in found if r.id != run.id and r.fingerprint["dataset"] == digest and r.done}
        if not others:
            st.caption("No other run of this dataset to compare with.")
            return
        before = st.selectbox(
            f"Compare run {run.id} with an earlier or later one of the same dataset",
            list(others),
            index=None,
            format_func=lambda number: title(others[number]),
            placeholder="choose a run",
            key="compare-with",
        )
        if before is not None:
            _compare(store, before, run.id)


def _compare(store: Store, before: int, after: int) -> None:
    try:
        compared = compare_runs(store, before, after)
    except BackendError as error:
        show_error(error)
        return
    st.dataframe(pd.DataFrame([_compared(cell, before, after) for cell in compared.cells]), hide_index=True, key="compared")
    st.caption(f"Differs between the two runs: {', '.join(compared.changed) or 'nothing'}.")


def _compared(cell: Compared, before: int, after: int) -> dict[str, object]:
    row: dict[str, object] = {
        "runtime": cell.key.runtime,
        "toggles": toggles_text(cell.key.normalize, cell.key.lora),
        f"run {before}, %": None if cell.before is None else round(100 * cell.before, 2),
        f"run {after}, %": None if cell.after is None else round(100 * cell.after, 2),
    }
    if (flipped := cell.flipped) is not None:
        row |= {
            "regressions": flipped.regressions,
            "improvements": flipped.improvements,
            "McNemar p": f"{flipped.p:.2g}",
            margin_text(flipped.comparison.margin): verdict_text(flipped.comparison),
            "n": flipped.comparison.n,
        }
    return row


def _row(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "started": datetime.fromtimestamp(run.created),
        "dataset": Path(str(run.settings["dataset"])).name,
        "runtimes": ", ".join(run.settings["runtimes"]),
        "state": run.state,
        "prompts": f"{run.done:,} of {run.total:,}",
        "bad rows left out": run.settings["skipped"]["count"],
    }
