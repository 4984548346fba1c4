"""The Evaluate page over stored runs, through the app's entry script: every view, and runs that hold next to nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.bundle import load_bundle
from backend.evaluation import begin, carry_on
from backend.plan import Plan
from backend.runtimes.load import load_runtime
from backend.store import Store
from benchmarks.synthetic import make_bundle, seeded
from tests.sheets import sheets

APP = Path(__file__).parent.parent / "app.py"
VIEWS = ("Flips", "Slices", "Agreement", "Null threshold", "Raw labels")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("synthetic") / "bundle", runtimes=("a", "b"), slots=("city", "price"))
    bundle = load_bundle(folder)
    return Plan(bundle, bundle.runtimes, (True, False), (False, True), folder / "set.jsonl", limit=150)


@pytest.fixture
def page(plan, tmp_path, monkeypatch):
    """Return a function that evaluates plans into a fresh store and opens the page on it."""
    monkeypatch.setenv("PROBE_PARITY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PROBE_PARITY_BUNDLE", str(plan.bundle.folder))

    def opened(*plans, stop_after=None, make=load_runtime):
        with Store(tmp_path / "store" / "runs.sqlite") as store:
            for each in plans:
                live = {spec: make(spec) for spec in each.specs}
                run = begin(store, each)

                def stop(progress, store=store, run=run):
                    if stop_after is not None and progress.done >= stop_after:
                        store.update(run, wanted="pause")

                carry_on(store, run, each, live.__getitem__, report=stop)
        app = AppTest.from_file(str(APP), default_timeout=60).switch_page("pages/Evaluate.py").run()
        assert not app.exception
        return app

    return opened


def slots_of(app):
    """Return example and slot of every row of the flips."""
    rows = app.dataframe[-1].value
    return set(zip(rows["example"], rows["slot"], strict=True))


def texts(app):
    return " ".join(str(e.value) for kind in ("caption", "markdown", "info", "code") for e in getattr(app, kind))


def test_without_a_run_it_says_what_to_do(page):
    assert "Start one above" in texts(page())


def test_every_view_of_a_finished_run(page, plan):
    app = page(plan)
    assert len(app.dataframe[0].value) == 4 and len(app.dataframe[1].value) == 8  # heat map and ladder
    assert "near ties" in texts(app)
    for view in VIEWS:
        app.session_state["view"] = view
        assert not app.run().exception
    for show in ("Regressions", "Improvements", "All wrong", "All"):
        app.session_state["view"], app.session_state["show"] = "Flips", show
        assert not app.run().exception
    assert "300 slots" in texts(app)


def test_pages_of_flips(page, plan):
    app = page(plan)
    app.session_state["show"] = "All"
    first = slots_of(app.run())
    second = app.number_input(key=next(n.key for n in app.number_input if n.label == "Page")).set_value(2).run()
    assert not second.exception and len(first | slots_of(second)) == 200


def test_another_baseline_turns_the_comparison_round(page, plan):
    app = page(plan)
    app.selectbox(key="baseline").set_value("b").run()
    assert not app.exception and app.selectbox(key="candidate").value == "a"
    assert list(app.dataframe[0].value.columns) == ["b", "a"]
    assert {(row["candidate"], row["against"]) for row in sheets(app)["pairs"]} == {("a", "b")}


def test_two_runs_of_one_set_and_switching_between_them(page, plan):
    app = page(plan, replace(plan, specs=plan.specs[1:]))
    assert not app.exception and app.selectbox(key="baseline").value == "b"
    app.selectbox(key="evaluation").set_value(1).run()
    assert not app.exception
    app.session_state["past-runs"] = True
    app.run()
    app.selectbox(key="compare-with").set_value(2).run()
    assert not app.exception and "Differs between the two runs: runtimes" in texts(app)


SMALL = {
    "all absent": {"function": "travel", "utterance": "fly me", "slots": {}},
    "one row": {
        "function": "travel",
        "utterance": "to Oslo",
        "slots": {"city": {"char_start": 3, "char_end": 7, "value": "Oslo"}},
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_runs_that_hold_next_to_nothing(page, plan, tmp_path, name):
    (tmp_path / "small.jsonl").write_text(json.dumps(SMALL[name]))
    app = page(replace(plan, dataset=tmp_path / "small.jsonl"), make=seeded)
    for view in VIEWS:
        app.session_state["view"] = view
        assert not app.run().exception, view


def test_a_run_that_has_only_begun_shows_what_there_is(page, plan):
    app = page(plan, stop_after=60)  # one batch of the first runtime
    assert not app.exception and len(app.dataframe[1].value) == 2
