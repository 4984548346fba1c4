"""Evaluate: exact-match tables of any dataset over runtimes and toggles, with the slots that flipped."""

import streamlit as st

from backend.errors import BackendError
from backend.flips import Show, list_flips, threshold_curve
from backend.report import as_html, make_report, toggles_text
from backend.store import Store
from backend.store_path import default_store
from ui import frame, runs, tables
from ui.charts import matrix, threshold


def main() -> None:
    """Draw the page."""
    context = frame.page("Evaluate")
    try:
        with Store(default_store()) as store:
            runs.new_run(context, store)
            run = runs.choose(store)
            if run is None:
                st.info("No run yet. Start one above: it goes on when you close this tab.", icon=":material/table:")
                return
            runs.progress(store, run)
            _results(store, run.id)
    except BackendError as error:
        frame.show_error(error)


def _results(store: Store, run: int) -> None:
    report = make_report(store, run, baseline=st.session_state.get("baseline"))
    names = list(dict.fromkeys(cell.runtime for cell in report.cells))
    st.plotly_chart(matrix(report), key="matrix")
    tables.ladder(report)
    tables.pairs(report)
    st.subheader("Slots that flipped")
    left, middle = st.columns(2)
    baseline = left.selectbox("Baseline", names, key="baseline")
    others = [name for name in names if name != baseline] or names
    candidate = middle.selectbox("Candidate", others, key="candidate")
    cells = {toggles_text(c.normalize, c.lora): (c.normalize, c.lora) for c in report.cells}
    chosen = st.segmented_control("Toggles", list(cells), default=next(iter(cells)), required=True, key="cell")
    toggles = cells[chosen]
    shown = st.segmented_control("Show", list(Show), default=Show.DIFFERENT, required=True, key="show")
    flips = list_flips(store, run, baseline, candidate, toggles=toggles, show=Show(shown))
    tables.flips(flips)
    with st.expander("Null threshold"):
        st.plotly_chart(threshold(candidate, threshold_curve(store, run, candidate, toggles=toggles)), key="threshold")
    # made when somebody asks for it: the page itself is 4 MB of script
    st.download_button("HTML report", lambda: as_html(report), f"run-{run}.html", "text/html", key="html")
    tables.downloads(store, run)


if __name__ == "__main__":
    main()
