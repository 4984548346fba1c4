"""The examples of a stored run: moving through them, and what their null decisions were."""

from __future__ import annotations

from dataclasses import dataclass

from backend.store import Store
from backend.store_schema import CellKey


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Ids of the examples before and after one, in the run's order; None at either end."""

    previous: str | None
    next: str | None


def neighbours(store: Store, run: int, example: str) -> Neighbours:
    """Return the examples beside one; both None where the run has no such example."""
    found = store.query("SELECT number FROM examples WHERE run = ? AND example = ?", (run, example))
    if not found:
        return Neighbours(None, None)
    number = int(found[0][0])
    return Neighbours(_beside(store, run, number, "<", "DESC"), _beside(store, run, number, ">", "ASC"))


def first_example(store: Store, run: int) -> str | None:
    """Return the first example's id, None in a run without rows."""
    found = store.query("SELECT example FROM examples WHERE run = ? ORDER BY number LIMIT 1", (run,))
    return found[0][0] if found else None


def _beside(store: Store, run: int, number: int, side: str, order: str) -> str | None:
    sql = f"SELECT example FROM examples WHERE run = ? AND number {side} ? ORDER BY number {order} LIMIT 1"
    found = store.query(sql, (run, number))
    return found[0][0] if found else None


def sample_questions(store: Store, run: int, *, limit: int) -> list[tuple[str, str]]:
    """Return (function, utterance) of up to ``limit`` examples, from the start of the run."""
    sql = "SELECT function, utterance FROM examples WHERE run = ? ORDER BY number LIMIT ?"
    return [(function, utterance) for function, utterance in store.query(sql, (run, limit))]


def null_rows(store: Store, run: int, runtime: str) -> list[tuple[float, float, bool]]:
    """Return null margin, norm of the query state and gold presence of every slot, on raw states with LoRA on."""
    cell = store.cells(run).get(CellKey(runtime, normalize=False, lora=True))
    if cell is None:
        return []
    sql = "SELECT null_present - null_absent, query_norm, gold_present FROM answers WHERE cell = ?"
    return [(margin, norm, bool(gold)) for margin, norm, gold in store.query(sql, (cell,))]
