"""Evaluation on real runtimes: cells equal upstream's loop, a killed run resumes, bad sets are refused."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from backend.cli import main
from backend.dataset import Format, Skipped, read_examples
from backend.errors import BackendError, InputError, PrerequisiteError
from backend.export import export_rows
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


def test_a_run_killed_at_random_resumes_to_the_same_rows(capsys, folder, tmp_path):
    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    assert evaluate(capsys, folder, whole, "--matrix")[0] == 0
    rng = random.Random(1)
    command = [sys.executable, "-m", "backend", "evaluate", "--bundle", str(folder), "--store", str(killed), "--matrix"]
    kills, more = 0, []
    while True:
        process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = _done(killed) + 64 * rng.randint(1, 3)
        while process.poll() is None and (_done(killed) < target or kills == 3):
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills, more = kills + 1, ["--resume", "1"]
    assert kills == 3
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


def test_resume_refuses_another_dataset(capsys, folder, tmp_path):
    from dataclasses import replace

    from backend.bundle import load_bundle
    from backend.evaluation import begin, check_resumable
    from backend.plan import Plan

    bundle = load_bundle(folder)
    plan = Plan(bundle, bundle.runtimes, (True,), (False,), folder / "set.jsonl", limit=10)
    other = tmp_path / "other.jsonl"
    other.write_text(LINE % ("x", GOLD))
    with Store(tmp_path / "r.sqlite") as store:
        run = begin(store, plan)
        with pytest.raises(InputError, match="other conditions") as refused:
            check_resumable(store, run, replace(plan, dataset=other))
    assert "dataset" in refused.value.found


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
    code, report = evaluate(capsys, folder, tmp_path / "r.sqlite", "--dataset", tmp_path / "small.jsonl")
    cell = report["cells"][0]
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


def test_a_full_disk_is_one_message_and_loses_nothing(folder, tmp_path):
    with Store(tmp_path / "full.sqlite") as store:
        run = store.create({}, {"runtimes": []}, total=1)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(PrerequisiteError, match="cannot be written"):
            for _ in range(200):
                store.create({"x": "y" * 5000}, {}, total=1)
        assert store.run(run).state == "running"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot be written"):
        Store(tmp_path / "file" / "r.sqlite")


def test_export_and_delete(capsys, folder, tmp_path):
    import pandas as pd

    evaluate(capsys, folder, tmp_path / "r.sqlite", "--limit", 5)
    with Store(tmp_path / "r.sqlite") as store:
        for suffix, read in ((".csv", pd.read_csv), (".json", pd.read_json), (".parquet", pd.read_parquet)):
            export_rows(store, 1, tmp_path / f"rows{suffix}")
            assert len(read(tmp_path / f"rows{suffix}")) == 15
        store.delete(1)
        assert store.runs() == []
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        assert db.execute("SELECT COUNT(*) FROM answers").fetchone() == (0,)
