"""The long runs, short: a soak in little memory, kills that lose nothing, a stored run against upstream's loop."""

import sys

import pytest

from backend.cli import main
from benchmarks import kill_outcome, kills_worker, memory, mutations, upstream_loop
from tests import tiny


@pytest.mark.timeout(280)
def test_memory_stays_flat_while_rows_stream(tmp_path):
    result = memory.soak(20_000, tmp_path)
    assert result.rows == 20_000
    assert result.growth_mb < 60  # 300 MB are allowed for 1,000,000
    assert result.curve[-1][0] == 20_000


@pytest.mark.timeout(280)
def test_kills_lose_and_double_nothing(tmp_path):
    outcomes = kills_worker.trial(5, tmp_path, seed=1, limit=200)
    assert sum(o.kills for o in outcomes) == 5 and any(o.in_commit for o in outcomes)
    assert kill_outcome.sound(outcomes), outcomes


def test_a_stored_run_equals_upstreams_loop(capsys, tmp_path, monkeypatch):
    import json

    folder = tiny.make(tmp_path / "bundle")
    slots = {"origin": {"char_start": 9, "char_end": 15, "value": "Boston"}}
    rows = [{"function": "book", "utterance": f"fly from Boston to {n} Rome", "slots": slots} for n in range(30)]
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "bundle.toml").write_text('dataset = "set.jsonl"\n' + (folder / "bundle.toml").read_text())
    store = tmp_path / "r.sqlite"
    assert main(["evaluate", "--bundle", str(folder), "--store", str(store), "--matrix"]) == 0
    monkeypatch.setattr(sys, "argv", ["upstream_loop", "--store", str(store), "--run", "1"])
    assert upstream_loop.main() == 0
    assert capsys.readouterr().out.count("  equal") == 4
    from backend.store import Store

    with Store(store) as opened:  # a row that is wrong must be noticed
        opened._db.execute("UPDATE answers SET value = 'x', present = 1 WHERE cell = 1 AND number = 3 AND slot = 'date'")
    assert upstream_loop.main() == 1
    assert "NOT EQUAL" in capsys.readouterr().out


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "count"), [("bundles", 40), ("datasets", 150)])
def test_damaged_files_are_refused_by_name_or_taken_and_nothing_dies(kind, count):
    outcome = mutations.run(kind, count=count, workers=1)
    assert outcome.count == count and not outcome.faults, outcome.faults
    assert outcome.refused.total() > count / 3 and len(outcome.ways) > 8


def test_a_fault_among_mutations_is_noticed(tmp_path, monkeypatch):
    """A worker that dies, a message without a name and a planted file that is run are each counted."""
    import os

    def fail(folder, seed):
        if seed == 5:  # never 0 or 1: those the command tries on the whole bundle first
            os.kill(os.getpid(), 9)
        if seed == 2:
            (folder.parent / "canary").mkdir()
        if seed == 3:
            raise KeyError("x")
        return "something is wrong" if seed == 4 else ""

    monkeypatch.setattr(mutations, "try_bundle", fail)
    monkeypatch.setattr(mutations, "try_dataset", lambda path, folder: "")
    outcome = mutations.run("bundles", count=7, workers=1)
    assert (outcome.count, outcome.deaths, outcome.executed, len(outcome.faults)) == (7, 1, 1, 4), outcome.faults
