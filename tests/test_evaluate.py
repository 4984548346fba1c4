"""Evaluation on real runtimes: cells equal upstream's loop, a killed run resumes, bad sets are refused."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.cli import main
from backend.dataset import Format, Skipped, read_examples
from backend.errors import BackendError, InputError, PrerequisiteError
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from backend.store import Store
from tests import tiny

LINE = '{"id": "%s", "function": "book", "utterance": "fly from Boston to Rome", "slots": %s}\n'
WORDS = ["fly", "from", "Boston", "to", "Seattle", "next", "Friday", "(-1,", "-2)", "$20", "ok"]
GOLD = '{"origin": {"char_start": 9, "char_end": 15, "value": "Boston"}}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny.make(tmp_path_factory.mktemp("tiny"))
    rng = random.Random(0)
    lines = []
    for i in range(400):
        text = " ".join(rng.sample(WORDS, 8))
        slots = {}
        for slot in ("origin", "destination", "date"):
            if rng.random() < 0.7:
                start = rng.randrange(len(text) - 6)
                slots[slot] = {"char_start": start, "char_end": start + 5, "value": text[start : start + 5]}
        lines.append(json.dumps({"id": f"e{i}", "function": "book", "utterance": text, "slots": slots}))
    (made / "set.jsonl").write_text("\n".join(lines))
    (made / "bundle.toml").write_text('dataset = "set.jsonl"\n' + (made / "bundle.toml").read_text())
    return made


def evaluate(capsys, folder, store, *more):
    code = main(["evaluate", "--bundle", str(folder), "--store", str(store), "--json", *map(str, more)])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if code in (0, 3) else printed.err


def upstream_loop(bundle_folder, n):
    """Exact match as the upstream script counts it, one example at a time."""
    from backend.bundle import load_bundle

    bundle = load_bundle(bundle_folder)
    probe, schemas, runtime = bundle.load_probe(), load_schemas(bundle.schemas), HFRuntime.load(bundle.runtimes[0])
    cells = {}
    for normalize in (False, True):
        for lora in (True, False):
            right = total = agreed = slots = 0
            for line in (bundle_folder / "set.jsonl").read_text().splitlines()[:n]:
                record = json.loads(line)
                prompt = probe.builder.build(schemas["book"], record["utterance"])
                states = runtime.forward([prompt.ids], ForwardOptions(normalize=normalize, lora=lora))[0]
                for found in probe.predict(prompt, states):
                    gold = record["slots"].get(found.slot)
                    slots += 1
                    agreed += found.present == (gold is not None)
                    if gold is None:
                        continue
                    first = prompt.utterance_span.start
                    hits = [
                        first + i
                        for i, (a, b) in enumerate(prompt.offsets)
                        if a < gold["char_end"] and b > gold["char_start"]
                    ]
                    text = probe.builder.decode(prompt.ids[hits[0] : hits[-1] + 1])
                    total += 1
                    right += found.present and found.pointer_value == text
            cells[normalize, lora] = (right / total, agreed / slots)
    return cells


def test_cells_equal_upstreams_loop_to_the_last_example(capsys, folder, tmp_path):
    code, report = evaluate(capsys, folder, tmp_path / "r.sqlite", "--matrix", "--limit", 150)
    assert code == 0 and report["dataset"]["n_examples"] == 150
    found = {(c["normalize"], c["lora"]): (c["exact_match"]["decoded"], c["presence_accuracy"]) for c in report["cells"]}
    assert found == upstream_loop(folder, 150)


def test_slices_add_up_to_the_cell(capsys, folder, tmp_path):
    code, report = evaluate(capsys, folder, tmp_path / "r.sqlite", "--limit", 40, "--slices", "slot")
    cell, (name, slices) = report["cells"][0], *report["slices"].items()
    assert code == 0 and name == cell["runtime"] and len(slices) == 3
    assert sum(s["n"] for s in slices) == cell["n_present"]
    assert sum(s["n"] * s["exact_match"] for s in slices) == pytest.approx(
        cell["exact_match"]["decoded"] * cell["n_present"]
    )
    again = ["evaluate", "--bundle", str(folder), "--store", str(tmp_path / "r.sqlite"), "--resume", str(report["run"])]
    assert main([*again, "--slices", "length"]) == 0
    assert "41 to 80 characters: " in capsys.readouterr().out


def test_a_killed_process_resumes_to_the_same_rows(folder, tmp_path):
    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    rng = random.Random(1)
    command = [sys.executable, "-m", "backend", "evaluate", "--bundle", str(folder), "--matrix", "--store"]
    # in a process of its own too: whatever else this one imported decides how many threads add up a product
    subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command.append(str(killed))
    kills, more = 0, []
    while True:
        process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = _done(killed) + 64 * rng.randint(1, 3)
        while process.poll() is None and (_done(killed) < target or kills == 1):
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills, more = kills + 1, ["--resume", "1"]
    assert kills == 1
    with Store(whole) as a, Store(killed) as b:
        assert list(a.rows(1)) == list(b.rows(1))


def _done(path):
    with Store(path) as store:
        return store.runs()[0].done if store.runs() else 0


def test_pause_and_resume(capsys, folder, tmp_path):
    from backend.bundle import load_bundle
    from backend.evaluation import begin, carry_on, check_resumable
    from backend.plan import Plan

    bundle = load_bundle(folder)
    plan = Plan(bundle, bundle.runtimes, (True,), (False,), folder / "set.jsonl")
    runtime = HFRuntime.load(bundle.runtimes[0])
    with Store(tmp_path / "p.sqlite") as store:
        run = begin(store, plan)
        state = carry_on(store, run, plan, lambda _: runtime, report=lambda _: store.update(run, wanted="pause"))
        assert state == "paused" and 0 < store.run(run).done <= 64
        store.update(run, wanted="run")
        check_resumable(store, run, plan)
        assert carry_on(store, run, plan, lambda _: runtime) == "finished"
        assert len({(r.example, r.slot) for r in store.rows(run)}) == 1200
    (folder / "probe_heads.pt").touch()


def test_resume_refuses_other_conditions_and_names_them(capsys, folder, tmp_path, monkeypatch):
    from dataclasses import replace

    from backend.bundle import load_bundle
    from backend.evaluation import begin, check_resumable
    from backend.plan import Plan

    bundle = load_bundle(folder)
    plan = Plan(bundle, bundle.runtimes, (True,), (False,), folder / "set.jsonl", limit=10)
    (tmp_path / "other.jsonl").write_text(LINE % ("x", GOLD))
    (tmp_path / "heads.pt").write_bytes(bundle.heads.read_bytes() + b"0")
    others = {
        "dataset": replace(plan, dataset=tmp_path / "other.jsonl"),
        "bundle": replace(plan, bundle=replace(bundle, heads=tmp_path / "heads.pt")),
        "runtimes": replace(plan, specs=(replace(bundle.runtimes[0], dtype="float16"),)),
    }
    with Store(tmp_path / "r.sqlite") as store:
        run = begin(store, plan)
        check_resumable(store, run, plan)
        for name, other in others.items():
            with pytest.raises(InputError, match="other conditions") as refused:
                check_resumable(store, run, other)
            assert refused.value.found == f"{name} differ"
        monkeypatch.setattr("backend.fingerprint._version", lambda package: "0.0")
        monkeypatch.setattr("backend.fingerprint.__file__", str(tmp_path / "fingerprint.py"))
        with pytest.raises(InputError, match="other conditions") as refused:
            check_resumable(store, run, plan)
        assert refused.value.found == "code and versions differ"


def test_max_drop_fails_with_3_when_a_loss_cannot_be_ruled_out(capsys, folder, tmp_path):
    toml = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(toml + '[[runtime]]\nname = "hf-fp16"\ndtype = "float16"\n')
    try:
        both = ["--runtime", "hf-fp32", "--runtime", "hf-fp16"]
        page = tmp_path / "report.html"
        strict = [*both, "--limit", 4, "--max-drop", 0.1, "--html", page]
        code, report = evaluate(capsys, folder, tmp_path / "r.sqlite", *strict)
        assert code == 3 and report["pairs"][0]["non_inferior"] != "yes"
        assert "exact match" in page.read_text() and "<script src" not in page.read_text()
        assert evaluate(capsys, folder, tmp_path / "r.sqlite", *both, "--max-drop", 5)[0] == 0
    finally:
        (folder / "bundle.toml").write_text(toml)


BAD_SETS = {
    "empty": ("", "no usable example"),
    "duplicate ids": (LINE % ("a", GOLD) * 2, "twice"),
    "outside": (LINE % ("a", GOLD.replace("15", "150")), "outside"),
    "unknown slot": (LINE % ("a", GOLD.replace("origin", "seat")), "no such slot"),
    "unknown function": ((LINE % ("a", GOLD)).replace("book", "cook"), "No function"),
    "no JSON": ("{\n", "line 1"),
}


@pytest.mark.parametrize("name", BAD_SETS)
def test_bad_sets_are_refused_with_the_line(capsys, folder, tmp_path, name):
    text, words = BAD_SETS[name]
    (tmp_path / "bad.jsonl").write_text(text)
    code, message = evaluate(capsys, folder, tmp_path / "r.sqlite", "--dataset", tmp_path / "bad.jsonl")
    assert code == 2 and words in message and "Traceback" not in message


@pytest.mark.parametrize("slots", [GOLD, "{}"], ids=["one row", "all absent"])
def test_small_sets(capsys, folder, tmp_path, slots):
    (tmp_path / "small.jsonl").write_text(LINE % ("a", slots))
    asked = ["--dataset", tmp_path / "small.jsonl", "--html", tmp_path / "r.html"]
    code, report = evaluate(capsys, folder, tmp_path / "r.sqlite", *asked)
    cell = report["cells"][0]
    assert "n present" in (tmp_path / "r.html").read_text()
    assert code == 0 and cell["n_slots"] == 3
    assert (cell["exact_match"]["decoded"] is None) == (slots == "{}")


def test_csv_and_squad_give_the_same_examples_as_jsonl(folder, tmp_path):
    schemas = load_schemas(folder / "function_schemas.json")
    text = 'fly "first",\nfrom Boston'
    (tmp_path / "a.csv").write_text(
        'function,utterance,slot,char_start,char_end,value\nbook,"fly ""first"",\nfrom Boston",origin,18,24,Boston\n'
    )
    question = {"question": "origin", "id": "1", "answers": [{"text": "Boston", "answer_start": 18}]}
    absent = {"question": "date", "id": "2", "answers": [], "is_impossible": True}
    squad = {"data": [{"title": "book", "paragraphs": [{"context": text, "qas": [question, absent]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(squad))
    slots = {"origin": {"char_start": 18, "char_end": 24, "value": "Boston"}}
    (tmp_path / "a.jsonl").write_text(json.dumps({"function": "book", "utterance": text, "slots": slots}))
    made = [next(read_examples(tmp_path / f"a.{suffix}", schemas)) for suffix in ("csv", "json", "jsonl")]
    assert {(e.function, e.utterance, e.gold) for e in made} == {("book", text, made[0].gold)}
    (tmp_path / "b.csv").write_text("function,utterance,slot,char_start,char_end,value\nbook,NA,,,\n")
    with pytest.raises(InputError, match="columns"):
        list(read_examples(tmp_path / "b.csv", schemas, format=Format.CSV))


def test_bad_rows_can_be_skipped_and_counted(folder, tmp_path):
    (tmp_path / "s.jsonl").write_text("{\n" + LINE % ("a", GOLD) + "[]\n")
    skipped = Skipped()
    read = list(read_examples(tmp_path / "s.jsonl", load_schemas(folder / "function_schemas.json"), skipped=skipped))
    assert [e.id for e in read] == ["a"] and skipped.count == 2


def test_rows_that_only_the_tokenizer_refuses_are_named_or_skipped(capsys, folder, tmp_path):
    long = json.dumps({"function": "book", "utterance": "fly " * 400, "slots": {}}) + "\n"
    (tmp_path / "s.jsonl").write_text(LINE % ("a", GOLD) + long + "{\n" + LINE % ("b", GOLD))
    asked = ["--dataset", tmp_path / "s.jsonl"]
    code, message = evaluate(capsys, folder, tmp_path / "r.sqlite", *asked)
    assert code == 2 and "line 3" in message  # the file is read before it is tokenised
    (tmp_path / "t.jsonl").write_text(LINE % ("a", GOLD) + long)
    code, message = evaluate(capsys, folder, tmp_path / "r.sqlite", "--dataset", tmp_path / "t.jsonl")
    assert code == 2 and "line 2" in message and "too long" in message
    code, report = evaluate(capsys, folder, tmp_path / "r.sqlite", *asked, "--skip-bad")
    assert code == 0 and (report["dataset"]["n_examples"], report["dataset"]["n_skipped"]) == (2, 2)
    with Store(tmp_path / "r.sqlite") as store:
        assert {row.example for row in store.rows(1)} == {"a", "b"}
        assert len(store.run(1).settings["skipped"]["reasons"]) == 2


def synthetic_plan(folder, **more):
    from backend.bundle import load_bundle
    from backend.plan import Plan
    from benchmarks.synthetic import make_bundle

    bundle = load_bundle(make_bundle(folder, runtimes=("a", "b")))
    return Plan(bundle, bundle.runtimes, (True, False), (False,), folder / "set.jsonl", **more)


def runtimes_of(plan):
    from backend.runtimes.load import load_runtime

    return {spec: load_runtime(spec) for spec in plan.specs}.__getitem__


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(tmp_path):
    from backend.evaluation import begin, carry_on

    plan = synthetic_plan(tmp_path / "bundle")
    with Store(tmp_path / "full.sqlite") as store:
        run = begin(store, plan)
        pages = store.query("PRAGMA page_count")[0][0]
        store.query(f"PRAGMA max_page_count={pages + 20}")
        with pytest.raises(PrerequisiteError, match="cannot be written") as refused:
            carry_on(store, run, plan, runtimes_of(plan))
        assert "nothing written before is lost" in refused.value.remedy
        done = store.run(run).done
        assert done == len(list(store.rows(run))) > 0  # one slot an example, one toggle: as many rows as prompts
        store.query("PRAGMA max_page_count=1000000")
        assert carry_on(store, run, plan, runtimes_of(plan)) == "finished"
        assert len(list(store.rows(run))) == 4 * 500


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Years forth and back between batches, as a machine does that finds its time server: rates and order stay."""
    import itertools

    from backend.evaluation import begin, carry_on

    plan = synthetic_plan(tmp_path / "bundle", limit=100)
    jumps = itertools.cycle((1e9, 3e9, 0.0, 2e9))
    monkeypatch.setattr("time.time", lambda: next(jumps))
    seen = []
    with Store(tmp_path / "r.sqlite") as store:
        first, second = begin(store, plan), begin(store, plan)
        for run in (second, first):
            assert carry_on(store, run, plan, runtimes_of(plan), report=seen.append) == "finished"
        assert [run.id for run in store.runs()] == [second, first]
        assert list(store.rows(first)) == list(store.rows(second)) and len(list(store.rows(first))) == 400
    assert all(0 < progress.rate < 1e6 and progress.left_s >= 0 for progress in seen)


def test_two_processes_cannot_go_on_with_one_run(tmp_path):
    from backend.evaluation import begin, carry_on

    plan = synthetic_plan(tmp_path / "bundle", limit=200)
    with Store(tmp_path / "r.sqlite") as store, Store(tmp_path / "r.sqlite") as other:
        run = begin(store, plan)

        def meddle(progress):
            if progress.done < 200:
                carry_on(other, run, plan, runtimes_of(plan))

        with pytest.raises(PrerequisiteError, match="not where this process left it"):
            carry_on(store, run, plan, runtimes_of(plan), report=meddle)
        assert store.run(run).state == "finished" and len(list(store.rows(run))) == 4 * 200


def test_runs_outlive_the_process_that_started_them_two_at_once(tmp_path):
    """What starts them is gone before they end, as with an app that is restarted."""
    plan = synthetic_plan(tmp_path / "bundle")
    store_path = tmp_path / "r.sqlite"
    code = f"""
from pathlib import Path
from backend import jobs
from backend.bundle import load_bundle
from backend.plan import Plan
bundle = load_bundle(Path({str(tmp_path / "bundle")!r}))
plan = Plan(bundle, bundle.runtimes, (True, False), (False,), bundle.dataset)
print(jobs.start(Path({str(store_path)!r}), plan), jobs.start(Path({str(store_path)!r}), plan))
"""
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert started.stdout.split() == ["1", "2"], started.stderr
    until = time.monotonic() + 200
    with Store(store_path) as store:
        while any(run.state == "running" for run in store.runs()) and time.monotonic() < until:
            time.sleep(0.2)
        assert [run.state for run in store.runs()] == ["finished", "finished"], [r.message for r in store.runs()]
        first, second = list(store.rows(1)), list(store.rows(2))
    assert first == second and len(first) == 4 * 500 and plan.dataset.exists()


def test_a_file_of_another_version_is_refused_and_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "old.sqlite") as db:
        db.execute("CREATE TABLE runs (id INTEGER)")
    with pytest.raises(PrerequisiteError, match="another version"):
        Store(tmp_path / "old.sqlite")
    assert sqlite3.connect(tmp_path / "old.sqlite").execute("SELECT COUNT(*) FROM runs").fetchone() == (0,)


@pytest.mark.parametrize("where", ["/proc/runs.sqlite", "/sys/kernel/folder/runs.sqlite"])
def test_a_read_only_folder_is_one_message(where):
    with pytest.raises(PrerequisiteError, match="cannot be written"):
        Store(Path(where))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot be written"):
        Store(tmp_path / "file" / "r.sqlite")


def test_runs_are_listed_compared_exported_and_deleted_from_the_command_line(capsys, folder, tmp_path):
    store = tmp_path / "r.sqlite"
    for _ in range(2):
        assert evaluate(capsys, folder, store, "--limit", 5)[0] == 0
    assert main(["runs", "--store", str(store)]) == 0 and "finished" in capsys.readouterr().out
    assert main(["runs", "--store", str(store), "--compare", "1", "2"]) == 0
    assert "+0.00 points, 0 regressions" in capsys.readouterr().out
    assert main(["runs", "--store", str(store), "--export", "1", "--out", str(tmp_path / "rows.csv")]) == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 16
    assert main(["runs", "--store", str(store), "--delete", "1"]) == 0
    assert main(["runs", "--store", str(store), "--delete", "1"]) == 2
    assert "Runs there are: 2" in capsys.readouterr().err


def test_delete_leaves_no_rows(capsys, folder, tmp_path):
    evaluate(capsys, folder, tmp_path / "r.sqlite", "--limit", 5)
    with Store(tmp_path / "r.sqlite") as store:
        store.delete(1)
        assert store.runs() == []
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        for table in ("runs", "cells", "examples", "labels", "answers"):
            assert db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)


def test_what_was_asked_while_the_process_started_stays_asked(capsys, tmp_path):
    """A cancel that comes between the app's start of a process and its first batch is obeyed, not forgotten."""
    from backend.evaluation import begin

    plan = synthetic_plan(tmp_path / "bundle", limit=100)
    with Store(tmp_path / "r.sqlite") as store:
        run = begin(store, plan)
        store.update(run, wanted="cancel")
        command = ["evaluate", "--store", str(tmp_path / "r.sqlite"), "--resume", str(run)]
        assert main(command) == 2 and store.run(run).state == "cancelled"
        assert "Go on with --resume" in capsys.readouterr().err
        assert main(command) == 0 and store.run(run).state == "finished"  # asked by a person: it goes on


def test_datasets_of_the_data_folder_are_offered(tmp_path, monkeypatch):
    from backend.store_path import data_files

    monkeypatch.delenv("PROBE_PARITY_DATA", raising=False)
    assert data_files() == []
    (tmp_path / "sub").mkdir()
    for name in ("b.csv", "sub/a.jsonl", "notes.txt"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("PROBE_PARITY_DATA", str(tmp_path))
    assert {path.name for path in data_files()} == {"b.csv", "a.jsonl"}
