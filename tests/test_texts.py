"""Awkward texts through tokenizer, command line and pages; `python -m benchmarks.texts` does it with 10,000."""

from contextlib import redirect_stdout
from io import BytesIO, TextIOWrapper
from json import loads

import pytest

from backend.cli import main
from backend.prompt import Prompt, Span
from benchmarks.curated_texts import curated
from benchmarks.texts import PIECES, Trial, generated

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def trial():
    made = Trial()
    yield made
    made.pool.close()


@pytest.fixture(autouse=True)
def fresh(trial):
    trial.faults.clear()


def test_there_are_500_curated_texts_and_some_cannot_be_encoded():
    assert len(curated()) >= 500
    texts = generated(300, seed=3)
    assert len(set(texts)) == 300
    assert any("\ud800" <= c <= "\udfff" for text in texts for c in text) and any(ord(c) > 0xFFFF for t in texts for c in t)


def test_texts_by_hypothesis_are_answered_or_refused_with_a_message(trial):
    for number, text in enumerate(generated(120, seed=1)):
        trial.check(text, number=number, everywhere=False)
    assert not trial.faults, trial.faults[0]


def test_curated_texts_are_answered_or_refused_with_a_message(trial):
    for number, text in enumerate(curated()[3::8] + curated()[-10:]):
        trial.check(text, number=number, everywhere=False)
    assert not trial.faults, trial.faults[0]
    assert trial.refused


def test_pieces_on_every_page(trial):
    for number, text in enumerate(sorted(PIECES)[::24]):
        trial.check(text, number=number, everywhere=True)
    assert not trial.faults, trial.faults[0]


def test_a_shifted_offset_is_noticed(trial, monkeypatch):
    right = Prompt.char_span
    monkeypatch.setattr(Prompt, "char_span", lambda self, tokens: Span(right(self, tokens).start + 1, len(self.utterance)))
    trial.check("fly from Boston to Rome 😀", number=0, everywhere=False)
    assert [fault.where for fault in trial.faults] == ["predict"]


def test_the_command_line_prints_any_letter_whatever_the_terminal_says():
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    with redirect_stdout(out):
        code = main(["predict", "--function", "book_flight", "--utterance", "flüge nach 北京 😀", "--json"])
    out.flush()
    assert code == 0 and loads(out.buffer.getvalue().decode())["utterance"] == "flüge nach 北京 😀"
