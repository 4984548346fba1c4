"""Results of a run as the page needs them, counted once for each state of the run and kept for every session."""

from pathlib import Path

import streamlit as st

from backend import flips, raw_gap, slices, threshold
from backend.report import Report, make_report
from backend.store import Run, Store

# Values, never changed once made: kept as they are, where `cache_data` would unpickle a copy for each rerun.
# Every key holds the store, the run, when it was made and how far it is: a run's rows never change, there are only more.
Key = tuple[str, int, float, int]


def key_of(store: Store, run: Run) -> Key:
    """Return what a result of this run depends on."""
    return str(store.path), run.id, run.created, run.done


def report_of(store: Store, run: Run, *, baseline: str | None) -> Report:
    """Count a run; the state in the report is the run's now. Raises as `make_report`."""
    names = run.settings["runtimes"]
    return _report(key_of(store, run), run.state, baseline if baseline in names else None)


@st.cache_resource(show_spinner=False, max_entries=64)
def _report(key: Key, state: str, baseline: str | None) -> Report:
    with Store(Path(key[0])) as store:
        return make_report(store, key[1], baseline=baseline)


@st.cache_resource(show_spinner=False, max_entries=64)
def movement(key: Key, pair: tuple[int, int]) -> flips.Movement:
    """Return how far margins move between two cells where nothing flips."""
    with Store(Path(key[0])) as store:
        return flips.measure_movement(store, pair)


@st.cache_resource(show_spinner=False, max_entries=256)
def flips_page(key: Key, pair: tuple[int, int], show: flips.Show, *, limit: int, offset: int) -> flips.Flips:
    """Return one page of the slots."""
    moved = movement(key, pair)
    with Store(Path(key[0])) as store:
        return flips.list_flips(store, key[1], pair, show=show, movement=moved, limit=limit, offset=offset)


@st.cache_resource(show_spinner=False, max_entries=64)
def slices_of(key: Key, pair: tuple[int, int], by: slices.By) -> list[slices.Slice]:
    """Return the slices of two cells, the most damaged first."""
    with Store(Path(key[0])) as store:
        return slices.make_slices(store, pair, by=by)


@st.cache_resource(show_spinner=False, max_entries=64)
def agreement(key: Key, toggles: tuple[bool, bool]) -> tuple[list[str], list[list[float | None]]]:
    """Return the share of slots that each two runtimes read alike."""
    with Store(Path(key[0])) as store:
        return flips.agreement(store, key[1], toggles=toggles)


@st.cache_resource(show_spinner=False, max_entries=64)
def threshold_of(key: Key, cell: int) -> threshold.ThresholdCurve:
    """Return presence accuracy of a cell against a shift of the null decision."""
    with Store(Path(key[0])) as store:
        return threshold.threshold_curve(store, cell)


@st.cache_resource(show_spinner=False, max_entries=64)
def raw_gap_of(key: Key) -> tuple[list[raw_gap.Way], int, int]:
    """Return why raw labels score lower."""
    with Store(Path(key[0])) as store:
        return raw_gap.raw_gap(store, key[1])
