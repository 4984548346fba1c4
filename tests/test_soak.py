"""`make soak`: each figure is a real command, and one that misses fails the whole."""

import sys
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.server_faults import AFTERWARDS, FAULTS

CODES = {"holds.py": "print('n 3'); print('other')", "misses.py": "print('n 4'); raise SystemExit(1)"}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    for name, code in CODES.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "hangs.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(soak, "ROOT", tmp_path)
    return [soak.Step(name, "3", (name,), r"n \d") for name in ("holds", "misses")]


def test_one_that_misses_fails_the_whole_and_shows_why(commands, monkeypatch, capsys):
    monkeypatch.setattr(soak, "STEPS", commands)
    monkeypatch.setattr(sys, "argv", ["soak"])
    assert soak.main() == 1
    printed = capsys.readouterr().out
    assert "| holds | 3 | n 3 |" in printed and "| misses | 3 | n 4;" in printed and printed.count("MISSED |") == 1
    monkeypatch.setattr(sys, "argv", ["soak", "--only", "holds"])
    assert soak.main() == 0
    monkeypatch.setattr(sys, "argv", ["soak", "--only", "nothing of that name"])
    assert soak.main() == 1


def test_one_that_hangs_is_ended(commands):
    result = soak.run(soak.Step("hangs", "", ("hangs",), "x"), limit_s=0.5)
    assert not result.holds and "ended after" in result.observed[-1]


def test_every_command_is_there():
    root = Path(__file__).parent.parent
    for step in soak.STEPS:
        assert step.arguments[0] == "pytest" or (root / (step.arguments[0].replace(".", "/") + ".py")).is_file()
    assert f"{len(FAULTS) + len(AFTERWARDS)} kinds" in next(s.figure for s in soak.STEPS if "server faults" in s.figure)
