"""The tables and plots of a whole run: matrix, metric ladder, paired comparisons, downloads."""

import tempfile
from functools import partial
from math import isnan
from pathlib import Path

import pandas as pd
import streamlit as st

from backend import report_figures
from backend.export import export_rows
from backend.report import Report, as_json, margin_text, toggles_text, verdict_text
from backend.report_html import as_html
from backend.store import Run, Store
from ui.sheet import sheet
from ui.theme import blend

_KINDS = {"CSV": ".csv", "JSON": ".json", "Parquet": ".parquet"}


def matrix(report: Report) -> None:
    """Draw exact match of every cell as a heat map; a click on one makes it the candidate of what is below.

    A table whose cells are coloured and not a chart: the page needs tables anyway, and a browser reads plotly's 5 MB of
    script for longer than it draws all the rest.
    """
    st.subheader("Exact match")
    names, toggles, shares = report_figures.matrix_of(report)
    frame = pd.DataFrame(shares, columns=names, index=[toggles_text(*t) for t in toggles], dtype=float)
    st.dataframe(
        frame.style.format(lambda share: f"{100 * share:.1f} %", na_rep="–").map(_shade),
        key="matrix",
        on_select=partial(_take_cell, names, toggles),
        selection_mode="single-cell",
        column_config={name: st.column_config.NumberColumn(alignment="center") for name in names},
        row_height=44,
    )
    st.caption(f"{report.n_examples:,} examples, baseline leftmost. Click a cell to see its flips below.")


def _shade(share: float) -> str:
    return "" if isnan(share) else f"background-color: {blend(report_figures.MATRIX_SCALE, share)}; color: #ffffff"


def _take_cell(names: list[str], toggles: list[tuple[bool, bool]]) -> None:
    """Make the clicked cell's runtime the candidate, and its toggles those of the flips."""
    for row, runtime in st.session_state["matrix"]["selection"]["cells"][:1]:
        if runtime in names:  # the column of toggles is none
            st.session_state["cell"] = toggles_text(*toggles[row])
            if runtime != st.session_state.get("baseline"):
                st.session_state["candidate"] = runtime


def ladder(report: Report) -> None:
    """Draw the metrics of every cell, from token indices to the raw label."""
    rows = []
    for cell in report.cells:
        m = cell.metrics
        low, high = cell.ci95 or (None, None)
        rows.append(
            {
                "runtime": cell.runtime,
                "toggles": toggles_text(cell.normalize, cell.lora),
                "exact match": m.decoded,
                "95 % low": low,
                "95 % high": high,
                "tokens": m.tokens,
                "normalised": m.normalized,
                "raw label": m.raw,
                "best possible raw": m.oracle_raw,
                "F1": m.f1,
                "presence": m.presence_accuracy,
                "precision": m.presence_precision,
                "recall": m.presence_recall,
                "all slots": m.all_slot_accuracy,
                "n present": m.n_present,
                "n slots": m.n_slots,
            }
        )
    frame = pd.DataFrame(rows)
    shares = [name for name in frame.columns if name not in ("runtime", "toggles", "n present", "n slots")]
    # what tells rows apart stays in view while the rest is scrolled
    config: dict = {name: st.column_config.TextColumn(pinned=True) for name in ("runtime", "toggles")}
    config |= {name: st.column_config.NumberColumn(format="percent") for name in shares}
    st.dataframe(frame, hide_index=True, column_config=config, key="ladder")


def pairs(report: Report) -> None:
    """Draw each runtime against the baseline."""
    rows = [
        {
            "candidate": p.candidate,
            "against": p.baseline,
            "toggles": toggles_text(p.normalize, p.lora),
            "points": f"{100 * p.flipped.comparison.delta:+.2f}",
            "regressions": p.flipped.regressions,
            "improvements": p.flipped.improvements,
            "McNemar p": f"{p.flipped.p:.2g}",
            margin_text(p.flipped.comparison.margin): verdict_text(p.flipped.comparison),
            "n": p.flipped.comparison.n,
        }
        for p in report.pairs
    ]
    if rows:
        st.html(sheet(rows, key="pairs"))


def downloads(store: Store, run: Run, report: Report) -> None:
    """Offer the report and all rows; each is made only when somebody asks for it."""
    st.subheader("Take it with you")
    path = store.path  # the page's own connection is closed by the time of a click

    def page() -> str:
        with Store(path) as own:
            return as_html(own, report)

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.download_button("HTML report", page, f"run-{run.id}.html", "text/html", key="html")
        kind = st.selectbox("All rows as", list(_KINDS), key="rows-as", width=140)
        st.download_button(
            "Download rows", lambda: _rows(path, run.id, _KINDS[kind]), f"run-{run.id}{_KINDS[kind]}", key="rows-file"
        )
    with st.expander("The result as JSON", on_change="rerun", key="json") as opened:
        if opened.open:
            st.json(as_json(report))


def _rows(path: Path, run: int, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder, Store(path) as own:
        made = Path(folder) / f"run{suffix}"
        export_rows(own, run, made)
        return made.read_bytes()
