"""Runs and their rows in one SQLite file: one transaction a batch, nothing twice, nothing lost."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from backend.errors import InputError, PrerequisiteError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  id INTEGER PRIMARY KEY, created REAL NOT NULL, fingerprint TEXT NOT NULL, settings TEXT NOT NULL,
  state TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL, rate REAL NOT NULL DEFAULT 0,
  pid INTEGER, wanted TEXT NOT NULL DEFAULT 'run', message TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS rows (
  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
  runtime TEXT NOT NULL, normalize INTEGER NOT NULL, lora INTEGER NOT NULL, example TEXT NOT NULL, slot TEXT NOT NULL,
  function TEXT NOT NULL, gold_present INTEGER NOT NULL, present INTEGER NOT NULL, tokens_equal INTEGER NOT NULL,
  value TEXT NOT NULL, gold_decoded TEXT NOT NULL, gold_raw TEXT NOT NULL,
  null_present REAL NOT NULL, null_absent REAL NOT NULL, start_margin REAL, end_margin REAL, query_norm REAL NOT NULL,
  n_tokens INTEGER NOT NULL, utterance TEXT NOT NULL,
  PRIMARY KEY (run, runtime, normalize, lora, example, slot)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One slot of one example in one cell of the matrix."""

    runtime: str
    normalize: bool
    lora: bool
    example: str
    slot: str
    function: str
    gold_present: bool
    present: bool
    tokens_equal: bool
    value: str
    gold_decoded: str
    gold_raw: str
    null_present: float
    null_absent: float
    start_margin: float | None  # None where the utterance has one token
    end_margin: float | None
    query_norm: float  # L2 norm of the slot's query state, before normalisation
    n_tokens: int
    utterance: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run and where it stands."""

    id: int
    created: float  # seconds since the epoch
    fingerprint: dict[str, str]
    settings: dict[str, Any]
    state: str  # running, paused, cancelled, finished, failed
    done: int  # batches
    total: int
    rate: float  # batches a second
    pid: int | None
    wanted: str  # run, pause or cancel: what somebody asked of the process
    message: str


_COLUMNS = tuple(field.name for field in fields(Row))
_BOOLEAN = {"normalize", "lora", "gold_present", "present", "tokens_equal"}


class Store:
    """One connection; use one store a thread. Every write is durable when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_SCHEMA)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def create(self, fingerprint: dict[str, str], settings: dict[str, Any], *, total: int) -> int:
        """Start a run of ``total`` batches and return its id."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO runs (created, fingerprint, settings, state, total) VALUES (?, ?, ?, 'running', ?)",
                (time.time(), json.dumps(fingerprint), json.dumps(settings), total),
            )
        return int(cursor.lastrowid or 0)

    def run(self, run: int) -> Run:
        """Return one run; raises `InputError` if there is none of that number."""
        for found in self._runs("WHERE id = ?", (run,)):
            return found
        known = ", ".join(str(r.id) for r in self.runs()[:10]) or "none"
        raise InputError("No run of that number", found=str(run), remedy=f"Runs there are: {known}.")

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        return list(self._runs("ORDER BY id DESC", ()))

    def append(self, run: int, rows: Iterable[Row], *, done: int, rate: float) -> None:
        """Add one batch's rows and count it, all or nothing."""
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        with self._transaction():
            self._db.executemany(
                f"INSERT INTO rows (run, {', '.join(_COLUMNS)}) VALUES ({marks})",
                ((run, *(getattr(row, name) for name in _COLUMNS)) for row in rows),
            )
            self._db.execute("UPDATE runs SET done = ?, rate = ? WHERE id = ?", (done, rate, run))

    def update(self, run: int, **values: object) -> None:
        """Set columns of a run."""
        with self._transaction():
            names = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(f"UPDATE runs SET {names} WHERE id = ?", (*values.values(), run))

    def rows(self, run: int, *, where: str = "", values: tuple[object, ...] = ()) -> Iterator[Row]:
        """Yield a run's rows in key order; ``where`` is SQL of this package, never of a user."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM rows WHERE run = ? {where}"
        for found in self._db.execute(query, (run, *values)):
            values_by_name: dict[str, Any] = dict(zip(_COLUMNS, found, strict=True))
            yield Row(**(values_by_name | {name: bool(values_by_name[name]) for name in _BOOLEAN}))

    def export(self, run: int, path: Path) -> None:
        """Write all rows of a run as CSV, JSON or Parquet, by suffix; raises `InputError` for another suffix."""
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.rows(run)], columns=list(_COLUMNS))
        writers = {
            ".csv": lambda: frame.to_csv(path, index=False),
            ".json": lambda: frame.to_json(path, orient="records", force_ascii=False),
            ".parquet": lambda: frame.to_parquet(path, index=False),
        }
        if path.suffix not in writers:
            raise InputError("Unknown export format", found=path.suffix, remedy="Use .csv, .json or .parquet.")
        with _explained(path):
            writers[path.suffix]()

    def delete(self, run: int) -> None:
        """Remove a run and its rows."""
        self.run(run)
        with self._transaction():
            self._db.execute("DELETE FROM runs WHERE id = ?", (run,))

    def _runs(self, rest: str, values: tuple[object, ...]) -> Iterator[Run]:
        names = [field.name for field in fields(Run)]
        for found in self._db.execute(f"SELECT {', '.join(names)} FROM runs {rest}", values):
            record = dict(zip(names, found, strict=True))
            record |= {name: json.loads(record[name]) for name in ("fingerprint", "settings")}
            yield Run(**record)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def example_of(store: Store, run: int, example: str) -> tuple[str, str, dict[str, tuple[str, str]]]:
    """Return function, utterance and gold of a stored example; raises `InputError` if it is not in the run."""
    store.run(run)
    rows = list(store.rows(run, where="AND example = ?", values=(example,)))
    if not rows:
        raise InputError("No such example in this run", found=str(example), remedy="Take an id of its table.")
    gold = {row.slot: (row.gold_decoded, row.gold_raw) for row in rows if row.gold_present}
    return rows[0].function, rows[0].utterance, gold


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise PrerequisiteError(
            f"{path.name} cannot be written",
            found=str(error)[:160],
            remedy="Free some disk space, or name another file with --store; nothing written before is lost.",
        ) from error
