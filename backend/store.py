"""Runs and their answers in one SQLite file: one transaction a batch, nothing twice, nothing lost."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backend.errors import InputError, PrerequisiteError
from backend.store_schema import TABLES, VERSION, AnswerRow, CellKey, ExampleRow, LabelRow, insert

_CACHE_KIB = 16_000  # of SQLite's own page cache, per connection


@dataclass(frozen=True, slots=True)
class Row:
    """One slot of one example in one cell of the matrix, with its example and its gold."""

    runtime: str
    normalize: bool
    lora: bool
    example: str
    slot: str
    function: str
    kind: str
    gold_present: bool
    present: bool
    right: bool  # absence included
    tokens_equal: bool
    value: str
    gold_decoded: str
    gold_raw: str
    null_present: float
    null_absent: float
    start_margin: float | None  # None where the utterance has one token
    end_margin: float | None
    char_start: int  # code points that the pointer covers
    char_end: int
    gold_start: int | None
    gold_end: int | None
    query_norm: float
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
    done: int  # prompts that went through a runtime, one for each runtime and LoRA setting
    total: int
    rate: float  # prompts a second
    pid: int | None
    wanted: str  # run, pause or cancel: what somebody asked of the process
    message: str


ROW_COLUMNS = tuple(field.name for field in fields(Row))
_BOOLEAN = {"normalize", "lora", "gold_present", "present", "right", "tokens_equal"}
# table of each column of a row; the others are the answer's own
_TABLES = {"runtime": "c", "normalize": "c", "lora": "c", "example": "e", "function": "e", "utterance": "e"}
_TABLES |= {"n_tokens": "e", "kind": "l", "gold_decoded": "l", "gold_raw": "l", "gold_start": "l", "gold_end": "l"}
ROW_SELECT = ", ".join(f"{_TABLES.get(name, 'a')}.{name}" for name in ROW_COLUMNS)
ROW_TABLES = """cells c JOIN answers a ON a.cell = c.id
  JOIN examples e ON e.run = c.run AND e.number = a.number
  JOIN labels l ON l.run = c.run AND l.number = a.number AND l.slot = a.slot"""


class Store:
    """One connection; use one store a thread. Every write is durable when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            self._create_tables()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def create(
        self, fingerprint: dict[str, str], settings: dict[str, Any], *, total: int, cells: Iterable[CellKey] = ()
    ) -> int:
        """Start a run of ``total`` prompts over ``cells`` and return its id."""
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO runs (created, fingerprint, settings, state, total) VALUES (?, ?, ?, 'running', ?)",
                (time.time(), json.dumps(fingerprint), json.dumps(settings), total),
            )
            run = int(cursor.lastrowid or 0)
            self._db.executemany(
                "INSERT INTO cells (run, runtime, normalize, lora) VALUES (?, ?, ?, ?)", [(run, *cell) for cell in cells]
            )
        return run

    def run(self, run: int) -> Run:
        """Return one run; raises `InputError` if there is none of that number."""
        for found in self._runs("WHERE id = ?", (run,)):
            return found
        known = ", ".join(str(r.id) for r in self.runs()[:10]) or "none"
        raise InputError("No run of that number", found=str(run), remedy=f"Runs there are: {known}.")

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        return list(self._runs("ORDER BY id DESC", ()))

    def cells(self, run: int) -> dict[CellKey, int]:
        """Return the cells of a run with their ids, in the order they were asked for."""
        found = self.query("SELECT id, runtime, normalize, lora FROM cells WHERE run = ? ORDER BY id", (run,))
        return {CellKey(runtime, bool(normalize), bool(lora)): cell for cell, runtime, normalize, lora in found}

    def append(
        self,
        run: int,
        answers: Mapping[int, Sequence[AnswerRow]],
        *,
        examples: Iterable[ExampleRow] = (),
        labels: Iterable[LabelRow] = (),
        done: tuple[int, int],
        rate: float,
    ) -> None:
        """Add one batch and count it, all or nothing.

        Args:
            run: its number.
            answers: rows by the id of their cell.
            examples: examples that are new to the run.
            labels: their gold.
            done: prompts that were done before and are done now.
            rate: prompts a second.

        Raises:
            PrerequisiteError: the file cannot be written, or another process has gone on with the run.
        """
        before, now = done
        with self._transaction():
            count = "UPDATE runs SET done = ?, rate = ? WHERE id = ? AND done = ?"
            if self._db.execute(count, (now, rate, run, before)).rowcount != 1:
                raise PrerequisiteError(
                    f"Run {run} is not where this process left it",
                    remedy="Another process goes on with it, or it was deleted; let only one run.",
                )
            self._db.executemany(_INSERT_EXAMPLE, ((run, *row) for row in examples))
            self._db.executemany(_INSERT_LABEL, ((run, *row) for row in labels))
            for cell, rows in answers.items():
                self._db.executemany(_INSERT_ANSWER, ((cell, *row) for row in rows))

    def update(self, run: int, **values: object) -> None:
        """Set columns of a run."""
        with self._transaction():
            names = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(f"UPDATE runs SET {names} WHERE id = ?", (*values.values(), run))

    def rows(
        self, run: int, *, cells: Sequence[int] | None = None, where: str = "", values: tuple[object, ...] = ()
    ) -> Iterator[Row]:
        """Yield a run's rows, cell by cell, in order of example and slot.

        Args:
            run: its number.
            cells: ids as `cells` gives them; default all.
            where: further conditions, SQL of this package.
            values: what its question marks stand for.
        """
        chosen = list(self.cells(run).values()) if cells is None else cells
        query = f"SELECT {ROW_SELECT} FROM {ROW_TABLES} WHERE c.run = ? AND a.cell = ? {where} ORDER BY a.number, a.slot"
        for cell in chosen:
            for found in self.iterate(query, (run, cell, *values)):
                yield make_row(found)

    def query(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Return what a SELECT of this package finds; raises `PrerequisiteError` where the file cannot be read."""
        return list(self.iterate(sql, values))

    def iterate(self, sql: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield what a SELECT of this package finds, without holding it; raises as `query` does."""
        with _explained(self.path, "read"):
            yield from self._db.execute(sql, values)

    def delete(self, run: int) -> None:
        """Remove a run and its rows."""
        self.run(run)
        with self._transaction():
            self._db.execute("DELETE FROM runs WHERE id = ?", (run,))

    def _create_tables(self) -> None:
        if self._version() == VERSION:
            return
        with self._transaction():
            version = self._version()
            if version == VERSION:
                return  # another process was faster
            if self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
                raise PrerequisiteError(
                    f"{self.path.name} was written by another version of this program",
                    found=f"version {version} of its tables, this one has {VERSION}",
                    remedy="Move the file away, or name another one with --store or PROBE_PARITY_STORE.",
                )
            for statement in filter(str.strip, TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _runs(self, rest: str, values: tuple[object, ...]) -> Iterator[Run]:
        names = [field.name for field in fields(Run)]
        for found in self.iterate(f"SELECT {', '.join(names)} FROM runs {rest}", values):
            record = dict(zip(names, found, strict=True))
            record |= {name: json.loads(record[name]) for name in ("fingerprint", "settings")}
            yield Run(**record)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(self.path, "written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


_INSERT_EXAMPLE = insert("examples", ExampleRow, before="run")
_INSERT_LABEL = insert("labels", LabelRow, before="run")
_INSERT_ANSWER = insert("answers", AnswerRow, before="cell")


def make_row(found: Sequence[Any]) -> Row:
    """Return the row of one result of ``ROW_SELECT``."""
    record = dict(zip(ROW_COLUMNS, found, strict=True))
    return Row(**(record | {name: bool(record[name]) for name in _BOOLEAN}))


def example_of(store: Store, run: int, example: str) -> tuple[str, str, dict[str, tuple[str, str]]]:
    """Return function, utterance and gold of a stored example; raises `InputError` if it is not in the run."""
    store.run(run)
    found = store.query("SELECT number, function, utterance FROM examples WHERE run = ? AND example = ?", (run, example))
    if not found:
        raise InputError("No such example in this run", found=str(example), remedy="Take an id of its table.")
    number, function, utterance = found[0]
    labels = store.query(
        "SELECT slot, gold_decoded, gold_raw FROM labels WHERE run = ? AND number = ? AND gold_present", (run, number)
    )
    return function, utterance, {slot: (decoded, raw) for slot, decoded, raw in labels}


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise PrerequisiteError(
            f"{path.name} cannot be {done}",
            found=str(error)[:160],
            remedy="Free some disk space, or name another file with --store; nothing written before is lost.",
        ) from error
