"""Evaluate: exact-match tables of any dataset over runtimes and toggles, with the slots that flipped."""

import streamlit as st

from backend.errors import BackendError
from backend.store import Store
from backend.store_path import default_store
from ui import details, frame, past_runs, runs, tables
from ui.results import report_of


def main() -> None:
    """Draw the page."""
    context = frame.page("Evaluate", needs_probe=False)
    try:
        with Store(default_store()) as store:
            runs.new_run(context, store)
            run = runs.choose(store)
            if run is None:
                st.info("No run yet. Start one above: it goes on when you close this tab.", icon=":material/table:")
                return
            runs.progress(store, run)
            if run.done == 0:
                st.caption("The tables appear with the first batch.")
            else:
                report = report_of(store, run, baseline=st.session_state.get("baseline"))
                tables.matrix(report)
                tables.ladder(report)
                tables.pairs(report)
                details.draw(store.path, run, report)
                tables.downloads(store, run, report)
            past_runs.draw(store, run)
    except BackendError as error:
        frame.show_error(error)


if __name__ == "__main__":
    main()
