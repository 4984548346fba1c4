"""What is counted from a stored run: slices, agreement, triage, raw labels, comparison, export, report."""

import json
import random
from dataclasses import replace

import pandas as pd
import pytest

from backend import flips, slices
from backend.bundle import load_bundle
from backend.comparison import compare_runs
from backend.errors import InputError, PrerequisiteError
from backend.evaluation import begin, carry_on
from backend.export import export_rows
from backend.metrics import SlotRow, measure
from backend.plan import Plan, share_passes
from backend.raw_gap import raw_gap
from backend.report import make_report
from backend.report_html import as_html
from backend.runtimes.load import load_runtime
from backend.statistics import wilson
from backend.store import Store
from backend.store_schema import AnswerRow, CellKey, ExampleRow, LabelRow
from backend.threshold import threshold_curve
from benchmarks.synthetic import make_bundle

SLOTS = ("city", "origin", "price")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("synthetic") / "bundle", runtimes=("a", "b", "c"), slots=SLOTS)
    bundle = load_bundle(folder)
    return Plan(bundle, bundle.runtimes, (True, False), (False, True), folder / "set.jsonl", limit=120)


@pytest.fixture(scope="module")
def store(plan, tmp_path_factory):
    with Store(tmp_path_factory.mktemp("store") / "runs.sqlite") as opened:
        evaluate(opened, plan)
        yield opened


def evaluate(store, plan):
    live = {spec: load_runtime(spec) for spec in plan.specs}
    run = begin(store, plan)
    assert carry_on(store, run, plan, live.__getitem__) == "finished"
    return run


def pair_of(store, normalize=False, lora=True):
    return flips.cell_pair(store, 1, "a", "b", toggles=(normalize, lora))


def test_cells_counted_by_sqlite_equal_those_counted_row_by_row(store):
    report = make_report(store, 1)
    assert len(report.cells) == 12
    for cell in report.cells:
        number = store.cells(1)[CellKey(cell.runtime, cell.normalize, cell.lora)]
        rows = [
            SlotRow(r.gold_present, r.present, r.tokens_equal, r.value, r.gold_decoded, r.gold_raw)
            for r in store.rows(1, cells=[number])
        ]
        counted = measure(rows)
        assert replace(cell.metrics, f1=None) == replace(counted, f1=None)
        assert cell.metrics.f1 == pytest.approx(counted.f1)


def test_pairs_and_flips_equal_a_join_in_python(store):
    first, second = ({(r.example, r.slot): r for r in store.rows(1, cells=[c])} for c in pair_of(store))
    present = [at for at, row in first.items() if row.gold_present]
    worse = {at for at in present if first[at].right and not second[at].right}
    found = next(p for p in make_report(store, 1).pairs if (p.candidate, p.normalize, p.lora) == ("b", False, True))
    assert (found.flipped.regressions, found.flipped.comparison.n) == (len(worse), len(present))
    movement = flips.measure_movement(store, pair_of(store))
    expected = {
        flips.Show.ALL: set(first),
        flips.Show.DIFFERENT: {a for a, r in first.items() if (r.present, r.value) != (second[a].present, second[a].value)},
        flips.Show.REGRESSIONS: {a for a, r in first.items() if r.right and not second[a].right},
        flips.Show.IMPROVEMENTS: {a for a, r in first.items() if not r.right and second[a].right},
        flips.Show.ALL_WRONG: {a for a, r in first.items() if not r.right and not second[a].right},
    }
    for show, wanted in expected.items():
        pages = [
            flips.list_flips(store, 1, pair_of(store), show=show, movement=movement, limit=50, offset=o)
            for o in range(0, 400, 50)
        ]
        listed = [(f.candidate.example, f.candidate.slot) for page in pages for f in page.flips]
        assert set(listed) == wanted and len(listed) == len(wanted) == pages[0].total


def test_slices_add_up_and_carry_intervals(store):
    total = next(c.metrics for c in make_report(store, 1).cells if (c.runtime, c.normalize, c.lora) == ("b", False, True))
    for by in slices.By:
        found = slices.make_slices(store, pair_of(store), by=by)
        assert sum(s.n for s in found) == total.n_present
        assert sum(round(s.n * s.exact_match) for s in found) == total.right
        assert [s.damage for s in found] == sorted((s.damage for s in found), reverse=True)
        assert all(s.ci95 == wilson(round(s.n * s.exact_match), s.n) for s in found)
    kinds = slices.make_slices(store, pair_of(store), by=slices.By.KIND)
    assert {s.name for s in kinds} == {f"kind of {slot}" for slot in SLOTS}


def test_agreement_is_symmetric_and_counts_equal_answers(store):
    names, shares = flips.agreement(store, 1, toggles=(False, True))
    rows = [
        {(r.example, r.slot): (r.present, r.value) for r in store.rows(1, cells=[store.cells(1)[CellKey(n, False, True)]])}
        for n in names
    ]
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            assert shares[i][j] == sum(first[at] == second[at] for at in first) / len(first)


def made_by_hand(path, rows):
    """Store one run of two cells; ``rows`` are (present, value, null margin, start margin) of baseline and candidate."""
    store = Store(path)
    cells = [CellKey("a", False, True), CellKey("b", False, True)]
    settings = {"runtimes": ["a", "b"], "skipped": {"count": 0}, "dataset": "x", "format": None, "skip_bad": False}
    run = store.create({"dataset": "d", "versions": ""}, settings, total=len(rows), cells=cells)
    ids = list(store.cells(run).values())
    answers = {cell: [] for cell in ids}
    for number, pair in enumerate(rows, start=1):
        for cell, (present, value, null, start) in zip(ids, pair, strict=True):
            right = present and value == "x"
            ladder = (right, right, right, right, True, float(right), value if present else "")
            scores = (null, 0.0, 0.0, 0.0, start, start)
            answers[cell].append(AnswerRow(number, "s", True, present, *ladder, *scores, len(value), len(value) + 1, 1.0))
    examples = [ExampleRow(n, f"e{n}", "f", "a x", 3) for n in range(1, len(rows) + 1)]
    labels = [LabelRow(n, "s", "k", True, "x", "x", 2, 3) for n in range(1, len(rows) + 1)]
    store.append(run, answers, examples=examples, labels=labels, done=(0, len(rows)), rate=1.0)
    return store, tuple(ids)


def test_flips_beyond_the_usual_movement_come_first(tmp_path):
    calm = [((True, "x", 5 + n / 100, 4.0), (True, "x", 5.0, 4.0 + n / 50)) for n in range(100)]  # nulls move by up to 1
    near = ((True, "x", 0.5, 4.0), (False, "x", -0.1, 4.0))
    far = ((True, "x", 6.0, 4.0), (False, "x", -6.0, 4.0))
    pointer = ((True, "x", 5.0, 3.5), (True, "yy", 5.0, 4.0))
    store, pair = made_by_hand(tmp_path / "r.sqlite", [*calm, near, pointer, far])
    with store:
        movement = flips.measure_movement(store, pair)
        assert movement.n == 100 and 0.9 < movement.null < 1 and 1.9 < movement.start < 2
        found = flips.list_flips(store, 1, pair, show=flips.Show.DIFFERENT, movement=movement)
        assert [(f.candidate.example, f.near_tie) for f in found.flips] == [
            ("e102", False),
            ("e103", False),
            ("e101", True),
        ]
        assert (found.total, found.near_ties) == (3, 1)


def test_threshold_curve_counts_presence(store):
    cell = store.cells(1)[CellKey("a", False, True)]
    curve, rows = threshold_curve(store, cell), list(store.rows(1, cells=[cell]))
    for shift, accuracy in zip(curve.shifts, curve.accuracy, strict=True):
        right = sum((r.null_present - r.null_absent >= shift) == r.gold_present for r in rows)
        assert accuracy == pytest.approx(right / len(rows))


def test_raw_gap_groups_what_tokens_hold_beside_the_label(tmp_path):
    store, _ = made_by_hand(tmp_path / "r.sqlite", [((True, "x", 1.0, 1.0), (True, "x", 1.0, 1.0))] * 5)
    pairs = [("(-1, -2", "-1, -2"), ("(3, 4", "3, 4"), ("x", "x"), ("cafe\u0301", "caf\u00e9"), ("a.", "a")]
    with store:
        for number, (decoded, raw) in enumerate(pairs, start=1):
            store._db.execute("UPDATE labels SET gold_decoded = ?, gold_raw = ? WHERE number = ?", (decoded, raw, number))
        ways, differ, n = raw_gap(store, 1)
    assert (differ, n) == (4, 5)
    assert [(w.name, w.n) for w in ways] == [("'(' before it", 2), ("written differently", 1), ("'.' after it", 1)]


def test_two_runs_of_one_dataset_are_compared_and_others_refused(store, plan, tmp_path):
    with Store(tmp_path / "r.sqlite") as own:
        first, second = evaluate(own, plan), evaluate(own, replace(plan, specs=plan.specs[:1]))
        same = compare_runs(own, first, second)
        assert same.changed == ("runtimes",) and len(same.cells) == 4
        assert all(c.before == c.after and c.flipped.regressions == c.flipped.improvements == 0 for c in same.cells)
        other = tmp_path / "other.jsonl"
        other.write_text("".join(plan.dataset.read_text().splitlines(keepends=True)[:50]))
        third = evaluate(own, replace(plan, dataset=other))
        with pytest.raises(InputError, match="different datasets"):
            compare_runs(own, first, third)


FORMULAS = ["=1+1", "+5", "-5", "@SUM(A1)", "plain", "(-1, -2)"]


def test_export_keeps_every_row_and_disarms_formulas(store, tmp_path):
    n = 12 * 120 * 3
    for suffix, read in ((".csv", pd.read_csv), (".json", pd.read_json), (".parquet", pd.read_parquet)):
        export_rows(store, 1, tmp_path / f"rows{suffix}")
        assert len(read(tmp_path / f"rows{suffix}")) == n
    json.loads((tmp_path / "rows.json").read_text())
    rows = [((True, v, 1.0, 1.0), (True, v, 1.0, 1.0)) for v in FORMULAS]
    with made_by_hand(tmp_path / "f.sqlite", rows)[0] as own:
        export_rows(own, 1, tmp_path / "f.csv")
        export_rows(own, 1, tmp_path / "f.parquet")
    values = pd.read_csv(tmp_path / "f.csv", dtype=str)["value"][: len(FORMULAS)].tolist()
    assert values == ["'=1+1", "'+5", "'-5", "'@SUM(A1)", "plain", "(-1, -2)"]
    assert pd.read_parquet(tmp_path / "f.parquet")["value"][: len(FORMULAS)].tolist() == FORMULAS
    with pytest.raises(InputError, match="export format"):
        export_rows(store, 1, tmp_path / "rows.xlsx")
    with pytest.raises(PrerequisiteError, match="cannot be written"):
        export_rows(store, 1, tmp_path / "no folder" / "rows.csv")


def test_the_report_is_one_file_and_escapes_what_it_quotes(tmp_path):
    evil = "<script>alert(1)</script>"
    rows = [((True, "x", 5.0, 4.0), (True, evil, 5.0, 4.0)), ((True, "x", 5.0, 4.0), (True, "x", 5.0, 4.0))]
    with made_by_hand(tmp_path / "r.sqlite", rows)[0] as store:
        page = as_html(store, make_report(store, 1))
    assert evil not in page and "&lt;script&gt;alert(1)" in page
    for words in ("By function", "McNemar", "Raw labels", "1 slots read differently", "unexplained"):
        assert words in page
    assert "<script src" not in page and page.count("plotly.js v") == 1


def test_passes_hold_what_memory_holds(plan, monkeypatch):
    monkeypatch.setattr("backend.plan.estimate_bytes", lambda spec: {"a": 5, "b": 4, "c": 3}[spec.name])
    assert share_passes(plan.specs, 100) == [["a", "b", "c"]]
    assert share_passes(plan.specs, 9) == [["a", "b"], ["c"]]
    assert share_passes(plan.specs, 1) == [["a"], ["b"], ["c"]]  # too large anyway: the pool says so


def test_passes_do_not_change_the_rows(store, plan, tmp_path, monkeypatch):
    """Three passes of the dataset, resumed at a random place, store what one pass stores."""
    monkeypatch.setattr("backend.plan.estimate_bytes", lambda spec: 10**15)
    stop = random.Random(0).randint(200, 500)
    with Store(tmp_path / "r.sqlite") as own:
        run = begin(own, plan)
        assert own.run(run).settings["passes"] == [["a"], ["b"], ["c"]]
        live = {spec: load_runtime(spec) for spec in plan.specs}
        pause = lambda p: own.update(run, wanted="pause") if p.done > stop else None  # noqa: E731
        assert carry_on(own, run, plan, live.__getitem__, report=pause) == "paused"
        own.update(run, wanted="run", state="running")
        assert carry_on(own, run, plan, live.__getitem__) == "finished"
        assert list(own.rows(run)) == list(store.rows(1))
