"""What lies behind one cell: flips, slices, agreement, null threshold, and why raw labels score lower."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from backend import report_figures
from backend.answers import ABSENT, answer_text
from backend.flips import Flip, Show, cell_pair
from backend.raw_gap import Way
from backend.report import Report, toggles_text
from backend.slices import By
from backend.store import Row, Run, Store
from backend.store_schema import CellKey
from ui import results
from ui.charts import slices_chart, threshold
from ui.spans import stored_lane

PAGE_ROWS = 100
_VIEWS = ("Flips", "Slices", "Agreement", "Null threshold", "Raw labels")


def draw(path: Path, run: Run, report: Report) -> None:
    """Draw the pickers and the chosen view, apart from the rest of the page: what is chosen here redraws only this."""
    st.subheader("Behind a cell")

    @st.fragment
    def behind() -> None:
        with Store(path) as store:  # the page has closed its own by the time of a click
            _draw(store, run, report)

    behind()


def _draw(store: Store, run: Run, report: Report) -> None:
    """Draw the pickers and the chosen view; only that one is computed."""
    names = list(dict.fromkeys(cell.runtime for cell in report.cells))
    cells = {toggles_text(c.normalize, c.lora): (c.normalize, c.lora) for c in report.cells}
    left, middle = st.columns(2)
    _keep("baseline", run.settings["runtimes"])
    baseline = left.selectbox("Baseline", run.settings["runtimes"], key="baseline")
    if baseline != report.baseline:
        st.rerun()  # the tables above are against it too
    others = [name for name in names if name != baseline] or names
    _keep("candidate", others)
    _keep("cell", list(cells))
    candidate = middle.selectbox("Candidate", others, key="candidate")
    toggles = cells[st.segmented_control("Toggles", list(cells), required=True, key="cell")]
    view = st.segmented_control("View", _VIEWS, default=_VIEWS[0], required=True, key="view")
    key = results.key_of(store, run)
    if view == "Agreement":
        _agreement(key, toggles)
    elif view == "Null threshold":
        there = [cell.runtime for cell in report.cells if (cell.normalize, cell.lora) == toggles]
        ids, runtimes = store.cells(run.id), run.settings["runtimes"]
        curves = [(runtimes.index(n), n, results.threshold_of(key, ids[CellKey(n, *toggles)])) for n in there]
        st.plotly_chart(threshold(curves), key="threshold")
    elif view == "Raw labels":
        _raw_labels(key)
    else:
        pair = cell_pair(store, run.id, baseline, candidate, toggles=toggles)
        if view == "Slices":
            _slices(key, pair)
        else:
            _flips(run, key, pair, toggles)


def _keep(key: str, options: Sequence[str]) -> None:
    """Keep what was chosen where this run has it; a choice may be of another run, or be the baseline by now."""
    if st.session_state.get(key) not in options:
        st.session_state[key] = options[0]


def _flips(run: Run, key: results.Key, pair: tuple[int, int], toggles: tuple[bool, bool]) -> None:
    """Draw one page of the slots; a click on a row opens its example below."""
    shown = Show(st.segmented_control("Show", list(Show), default=Show.DIFFERENT, required=True, key="show"))
    # another list begins with its first page
    first = results.flips_page(key, pair, shown, limit=PAGE_ROWS, offset=0)
    pages = max(1, -(-first.total // PAGE_ROWS))
    number = 1
    if pages > 1:
        number = st.number_input("Page", 1, pages, key=f"page-{shown}-{pair}", width=140)
    found = first if number == 1 else results.flips_page(key, pair, shown, limit=PAGE_ROWS, offset=PAGE_ROWS * (number - 1))
    if not found.total:
        st.caption("None.")
        return
    event = st.dataframe(
        pd.DataFrame([_flip_row(flip) for flip in found.flips]),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="flips",
        height=38 + 35 * min(8, len(found.flips)),  # of header and rows; no empty ones
    )
    moved = found.movement
    st.caption(
        f"{found.total:,} {'slot' if found.total == 1 else 'slots'}, {found.near_ties:,} of them near ties; "
        f"page {number} of {pages}. Click a row to open it. "
        f"Near tie: the baseline's margin is within what 99 % of the {moved.n:,} unflipped slots moved by, "
        f"{moved.null:.3g} for presence, {moved.start:.3g} for starts, {moved.end:.3g} for ends. Unexplained come first."
    )
    for index in event.selection.rows[:1]:
        if index < len(found.flips):
            _opened(run, found.flips[index], toggles)


def _flip_row(flip: Flip) -> dict[str, object]:
    row = flip.candidate
    return {
        "example": row.example,
        "slot": f"{row.function}.{row.slot}",
        "gold": answer_text(row.gold_decoded if row.gold_present else None),
        "baseline": _value(flip.baseline),
        "candidate": _value(row),
        "triage": {None: "", True: "near tie", False: "unexplained"}[flip.near_tie],
        "margin": round(flip.margin, 3),
    }


def _opened(run: Run, flip: Flip, toggles: tuple[bool, bool]) -> None:
    """Draw one slot's example with the spans of baseline, candidate and gold side by side."""
    base, row = flip.baseline, flip.candidate
    with st.container(border=True, key="opened"):
        gold = (row.gold_start, row.gold_end) if row.gold_present else None
        lanes = (
            (f"{base.runtime}, baseline", (base.char_start, base.char_end) if base.present else None, base.right),
            (row.runtime, (row.char_start, row.char_end) if row.present else None, row.right),
            ("gold", gold, None),
        )
        for column, (title, span, right) in zip(st.columns(3), lanes, strict=True):
            column.html(stored_lane(title, row.utterance, span, slot=row.slot, right=right))
        texts = f"gold tokens {row.gold_decoded!r}, label {row.gold_raw!r}" if row.gold_present else f"gold {ABSENT}"
        st.code(f"{row.function}.{row.slot}: {texts}", language=None, wrap_lines=True)
        normalize, lora = toggles
        st.page_link(
            "pages/Diagnose.py",
            label="Why? Open in Diagnose",
            icon=":material/troubleshoot:",
            query_params={
                "run": str(run.id),
                "example": row.example,
                "baseline": base.runtime,
                "candidate": row.runtime,
                "normalize": str(normalize).lower(),
                "lora": str(lora).lower(),
            },
        )


def _slices(key: results.Key, pair: tuple[int, int]) -> None:
    by = By(st.segmented_control("By", list(By), default=By.FUNCTION, required=True, key="slice-by"))
    found = results.slices_of(key, pair, by)
    if not found:
        st.caption("No slot present in gold yet.")
        return
    st.plotly_chart(slices_chart(found[:20]), key="slices-chart", config={"displayModeBar": False})
    rows = [
        {
            by.value: s.name,
            "exact match": s.exact_match,
            "95 % low": s.ci95[0],
            "95 % high": s.ci95[1],
            "baseline": s.baseline,
            "regressions": s.regressions,
            "improvements": s.improvements,
            "n": s.n,
        }
        for s in found
    ]
    shares = ("exact match", "95 % low", "95 % high", "baseline")
    config = {name: st.column_config.NumberColumn(format="percent") for name in shares}
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=config, key="slices")
    st.caption(f"{len(found)} groups, the most damaged first: regressions minus improvements against the baseline.")


def _agreement(key: results.Key, toggles: tuple[bool, bool]) -> None:
    names, shares = results.agreement(key, toggles)
    st.plotly_chart(report_figures.agreement(names, shares), key="agreement", config={"displayModeBar": False})
    st.caption("Share of slots that two runtimes read alike, absence included, right or wrong.")


def _raw_labels(key: results.Key) -> None:
    ways, differ, n = results.raw_gap_of(key)
    if not differ:
        st.caption("The text of the gold tokens is the label in every slot.")
        return
    st.markdown(
        f"In **{differ:,}** of {n:,} present slots ({100 * differ / n:.1f} %) the text of the gold tokens is not the "
        "label: a token may reach beyond it. Compared with the label, a probe that points at exactly the right "
        "tokens is wrong there: *best possible raw* in the table above counts what remains."
    )
    st.dataframe(pd.DataFrame([_way_row(way) for way in ways]), hide_index=True, key="raw-gap")


def _way_row(way: Way) -> dict[str, object]:
    row = {"the tokens also hold": way.name, "slots": way.n, "label": way.raw, "text of its tokens": way.decoded}
    return row | {"example": way.example}


def _value(row: Row) -> str:
    return f"{'✓' if row.right else '✗'} {answer_text(row.value if row.present else None)}"
