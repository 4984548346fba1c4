"""The examples of a stored run: moving through them, and what their null decisions were."""

from __future__ import annotations

from dataclasses import dataclass

from backend.store import Store


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Ids of the examples before and after one, in the run's order; None at either end."""

    previous: str | None
    next: str | None


def neighbours(store: Store, run: int, example: str) -> Neighbours:
    """Look in one cell of the run, as every cell holds the same examples."""
    for row in store.rows(run, where="AND example = ? LIMIT 1", values=(example,)):
        cell = (row.runtime, int(row.normalize), int(row.lora), example)
        return Neighbours(_beside(store, run, cell, "<", "DESC"), _beside(store, run, cell, ">", "ASC"))
    return Neighbours(None, None)


def first_example(store: Store, run: int) -> str | None:
    """Return the first example's id, None in a run without rows."""
    return next((row.example for row in store.rows(run, where="LIMIT 1")), None)


def _beside(store: Store, run: int, cell: tuple[str, int, int, str], side: str, order: str) -> str | None:
    where = f"AND runtime = ? AND normalize = ? AND lora = ? AND example {side} ? ORDER BY example {order} LIMIT 1"
    return next((row.example for row in store.rows(run, where=where, values=cell)), None)


def sample_questions(store: Store, run: int, *, limit: int) -> list[tuple[str, str]]:
    """Return (function, utterance) of up to ``limit`` examples, from the start of the run's first cell."""
    first = next(store.rows(run, where="LIMIT 1"), None)
    if first is None:
        return []
    where = "AND runtime = ? AND normalize = ? AND lora = ? GROUP BY example ORDER BY example LIMIT ?"
    cell = (first.runtime, int(first.normalize), int(first.lora), limit)
    return [(row.function, row.utterance) for row in store.rows(run, where=where, values=cell)]


def null_rows(store: Store, run: int, runtime: str) -> list[tuple[float, float, bool]]:
    """Return null margin, norm of the query state and gold presence of every slot, on raw states with LoRA on."""
    rows = store.rows(run, where="AND runtime = ? AND normalize = 0 AND lora = 1", values=(runtime,))
    return [(row.null_present - row.null_absent, row.query_norm, row.gold_present) for row in rows]
