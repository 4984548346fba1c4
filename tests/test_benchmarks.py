"""The long runs, short: a soak in little memory, kills that lose nothing, a stored run against upstream's loop."""

import sys

import pytest

from backend.cli import main
from benchmarks import kills, memory, upstream_loop
from tests import tiny


@pytest.mark.timeout(280)
def test_memory_stays_flat_while_rows_stream(tmp_path):
    result = memory.soak(20_000, tmp_path)
    assert result.rows == 20_000
    assert result.growth_mb < 60  # 300 MB are allowed for 1,000,000
    assert result.curve[-1][0] == 20_000


@pytest.mark.timeout(280)
def test_kills_lose_and_double_nothing(tmp_path):
    outcomes = kills.trial(5, tmp_path, seed=1, limit=200)
    assert sum(o.kills for o in outcomes) == 5 and any(o.in_commit for o in outcomes)
    assert kills.sound(outcomes), outcomes


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
