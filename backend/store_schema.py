"""What an evaluation stores, as tables and as the tuples written to them."""

from __future__ import annotations

from typing import NamedTuple

VERSION = 2  # of the tables; a file of another version is refused, never changed

# Flags are stored beside the answers so that SQLite can count: a page must not fetch 100,000 rows to show 16 shares.
TABLES = """
CREATE TABLE IF NOT EXISTS runs (
  id INTEGER PRIMARY KEY, created REAL NOT NULL, fingerprint TEXT NOT NULL, settings TEXT NOT NULL,
  state TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL, rate REAL NOT NULL DEFAULT 0,
  pid INTEGER, wanted TEXT NOT NULL DEFAULT 'run', message TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS cells (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
  runtime TEXT NOT NULL, normalize INTEGER NOT NULL, lora INTEGER NOT NULL, UNIQUE (run, runtime, normalize, lora));
CREATE TABLE IF NOT EXISTS examples (
  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, number INTEGER NOT NULL,
  example TEXT NOT NULL, function TEXT NOT NULL, utterance TEXT NOT NULL, n_tokens INTEGER NOT NULL,
  PRIMARY KEY (run, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS example_ids ON examples (run, example);
CREATE TABLE IF NOT EXISTS labels (
  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, number INTEGER NOT NULL, slot TEXT NOT NULL,
  kind TEXT NOT NULL, gold_present INTEGER NOT NULL, gold_decoded TEXT NOT NULL, gold_raw TEXT NOT NULL,
  gold_start INTEGER, gold_end INTEGER, PRIMARY KEY (run, number, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
  cell INTEGER NOT NULL REFERENCES cells(id) ON DELETE CASCADE, number INTEGER NOT NULL, slot TEXT NOT NULL,
  gold_present INTEGER NOT NULL, present INTEGER NOT NULL, right INTEGER NOT NULL, tokens_equal INTEGER NOT NULL,
  normalized_equal INTEGER NOT NULL, raw_equal INTEGER NOT NULL, oracle_equal INTEGER NOT NULL, f1 REAL NOT NULL,
  value TEXT NOT NULL, null_present REAL NOT NULL, null_absent REAL NOT NULL, start_score REAL NOT NULL,
  end_score REAL NOT NULL, start_margin REAL, end_margin REAL, char_start INTEGER NOT NULL, char_end INTEGER NOT NULL,
  query_norm REAL NOT NULL, PRIMARY KEY (cell, number, slot)) WITHOUT ROWID;
"""


class CellKey(NamedTuple):
    """One runtime under one pair of toggles."""

    runtime: str
    normalize: bool
    lora: bool


class ExampleRow(NamedTuple):
    """One example of a run."""

    number: int  # place among the usable examples of the dataset, from 1
    example: str  # id
    function: str
    utterance: str
    n_tokens: int  # of the prompt


class LabelRow(NamedTuple):
    """Gold of one slot of one example."""

    number: int
    slot: str
    kind: str  # what the values are like, from the schema; its type where it names no kind
    gold_present: bool
    gold_decoded: str  # text of the gold tokens, empty where absent
    gold_raw: str  # the label as the file has it, empty where absent
    gold_start: int | None  # code points of the utterance, half-open
    gold_end: int | None


class AnswerRow(NamedTuple):
    """What one cell read for one slot of one example."""

    number: int
    slot: str
    gold_present: bool
    present: bool
    right: bool  # absence included
    tokens_equal: bool
    normalized_equal: bool
    raw_equal: bool
    oracle_equal: bool  # gold tokens decode to the raw label
    f1: float
    value: str  # empty where predicted absent
    null_present: float
    null_absent: float
    start_score: float
    end_score: float
    start_margin: float | None  # None where the utterance has one token
    end_margin: float | None
    char_start: int  # code points that the pointer covers, also where predicted absent
    char_end: int
    query_norm: float  # L2 norm of the slot's query state, before normalisation


def insert(table: str, row: type[NamedTuple], *, before: str) -> str:
    """Return the statement that inserts a row type after one leading column."""
    columns = (before, *row._fields)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
