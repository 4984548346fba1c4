"""Tables of an evaluation."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from backend.flips import Flip
from backend.report import Report, toggles_text
from backend.store import Store
from ui.spans import plain


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
                "all slots": m.all_slot_accuracy,
                "n present": m.n_present,
                "n slots": m.n_slots,
            }
        )
    frame = pd.DataFrame(rows)
    shares = [name for name in frame.columns if name not in ("runtime", "toggles", "n present", "n slots")]
    config = {name: st.column_config.NumberColumn(format="percent") for name in shares}
    st.dataframe(frame, hide_index=True, column_config=config, key="ladder")


def pairs(report: Report) -> None:
    """Draw each runtime against the baseline."""
    rows = [
        {
            "candidate": f"{p.candidate} against {p.baseline}",
            "toggles": toggles_text(p.normalize, p.lora),
            "points": round(100 * p.comparison.delta, 2),
            "regressions": p.regressions,
            "improvements": p.improvements,
            "McNemar p": round(p.p, 4),
            f"no worse than {100 * p.comparison.margin:g} points": str(p.comparison.verdict)
            + (f", about {p.comparison.n_needed} slots needed" if p.comparison.n_needed else ""),
            "n": p.comparison.n,
        }
        for p in report.pairs
    ]
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="pairs")


def flips(found: Sequence[Flip]) -> None:
    """Draw the slots; a click on a row opens its example below."""
    if not found:
        st.caption("None.")
        return
    rows = [
        {
            "example": flip.candidate.example,
            "function": flip.candidate.function,
            "slot": flip.candidate.slot,
            "gold": flip.candidate.gold_decoded if flip.candidate.gold_present else "(absent)",
            "baseline": _value(flip.baseline.present, flip.baseline.value, flip.baseline_right),
            "candidate": _value(flip.candidate.present, flip.candidate.value, flip.candidate_right),
            "margin": round(flip.margin, 3),
        }
        for flip in found
    ]
    event = st.dataframe(
        pd.DataFrame(rows), hide_index=True, on_select="rerun", selection_mode="single-row", key="flips", height=260
    )
    st.caption(f"{len(found)} slots. Small margins are near ties. Click a row to open its example.")
    for index in event.selection.rows[:1]:
        row = found[index].candidate
        with st.container(border=True, key="opened"):
            st.html(plain(row.utterance))
            label = row.gold_raw if row.gold_present else "(absent)"
            st.code(f"{row.function}.{row.slot}: gold {label!r}", language=None, wrap_lines=True)


def downloads(store: Store, run: int) -> None:
    """Offer all rows; made only when asked for."""
    kinds = {"CSV": ".csv", "JSON": ".json", "Parquet": ".parquet"}
    kind = st.selectbox("Download all rows as", list(kinds), index=None, placeholder="choose a format", key="rows-as")
    if kind:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"run-{run}{kinds[kind]}"
            store.export(run, path)
            st.download_button(f"Save {path.name}", path.read_bytes(), path.name, key="rows-file")


def _value(present: bool, value: str, right: bool) -> str:
    return f"{'✓' if right else '✗'} {value if present else '(absent)'}"
