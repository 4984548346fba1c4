"""Slots that two cells of a run read differently, the unexplained ones first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.errors import InputError
from backend.store import ROW_SELECT, ROW_TABLES, Row, Store, make_row
from backend.store_schema import CellKey

_QUANTILE = 0.99  # of what unflipped margins moved by; what lies above it, rounding does not explain


class Show(StrEnum):
    """Which slots a table lists."""

    DIFFERENT = "Different"
    REGRESSIONS = "Regressions"
    IMPROVEMENTS = "Improvements"
    ALL_WRONG = "All wrong"
    ALL = "All"


_DIFFERS = "(b.present <> a.present OR b.value <> a.value)"
_SHOWN = {
    Show.ALL: "1",
    Show.DIFFERENT: _DIFFERS,
    Show.REGRESSIONS: "b.right AND NOT a.right",
    Show.IMPROVEMENTS: "a.right AND NOT b.right",
    Show.ALL_WRONG: "NOT a.right AND NOT b.right",
}


@dataclass(frozen=True, slots=True)
class Movement:
    """How far decision margins move between two cells where the answer stays: 99 % move by less. In logits and scores."""

    null: float
    start: float
    end: float
    n: int  # slots whose answer stays


@dataclass(frozen=True, slots=True)
class Flip:
    """One slot in two cells."""

    baseline: Row
    candidate: Row
    near_tie: bool | None  # the baseline's margin is within the usual movement; None where the answers are equal

    @property
    def margin(self) -> float:
        """Return the baseline's margin of the first decision that came out otherwise: presence, start, else end."""
        row = self.baseline
        if row.present != self.candidate.present or not row.present:
            return abs(row.null_present - row.null_absent)
        found = row.start_margin if row.char_start != self.candidate.char_start else row.end_margin
        return float("inf") if found is None else found


@dataclass(frozen=True, slots=True)
class Flips:
    """One page of a list of slots."""

    flips: tuple[Flip, ...]
    total: int  # slots of all pages
    near_ties: int  # of all pages
    movement: Movement


def cell_pair(store: Store, run: int, baseline: str, candidate: str, *, toggles: tuple[bool, bool]) -> tuple[int, int]:
    """Return the ids of two runtimes' cells under the same (normalize, lora); raises `InputError` if one is not there."""
    cells = store.cells(run)
    keys = [CellKey(name, *toggles) for name in (baseline, candidate)]
    missing = [key.runtime for key in keys if key not in cells]
    if missing:
        raise InputError(f"Run {run} has no such cell", found=", ".join(missing), remedy="Choose runtimes of this run.")
    return cells[keys[0]], cells[keys[1]]


def list_flips(
    store: Store, run: int, pair: tuple[int, int], *, show: Show, movement: Movement, limit: int = 200, offset: int = 0
) -> Flips:
    """Return one page of the slots: unexplained flips first, then in order of example and slot.

    Args:
        store: where the run is.
        run: its number.
        pair: ids of baseline's and candidate's cell.
        show: which slots.
        movement: of the same pair, see `measure_movement`.
        limit: rows of a page.
        offset: rows before it.
    """
    limits = (movement.null, movement.start, movement.end)
    condition = "FROM answers a JOIN answers b ON b.number = a.number AND b.slot = a.slot WHERE a.cell = ? AND b.cell = ?"
    baseline, candidate = pair
    counted = f"SELECT COUNT(*), SUM({_DIFFERS} AND NOT {_UNEXPLAINED}) {condition} AND {_SHOWN[show]}"
    total, near = store.query(counted, (*limits, candidate, baseline))[0]
    chosen = store.query(
        f"SELECT a.number, a.slot, CASE WHEN {_DIFFERS} THEN {_UNEXPLAINED} END AS unexplained {condition} "
        f"AND {_SHOWN[show]} ORDER BY unexplained IS 1 DESC, a.number, a.slot LIMIT ? OFFSET ?",
        (*limits, candidate, baseline, limit, offset),
    )
    flips = []
    for number, slot, unexplained in chosen:
        first, second = (_row(store, run, cell, number, slot) for cell in pair)
        flips.append(Flip(first, second, None if unexplained is None else not unexplained))
    return Flips(tuple(flips), total, near or 0, movement)


# The first decision that came out otherwise had a margin beyond the usual movement. The end is judged only where the start
# stayed: upstream's decoding moves the end to the start where it would lie before it.
_UNEXPLAINED = """CASE WHEN b.present <> a.present THEN abs(b.null_present - b.null_absent) > ?1
  WHEN b.char_start <> a.char_start THEN b.start_margin > ?2 ELSE b.end_margin > ?3 END"""


def measure_movement(store: Store, pair: tuple[int, int]) -> Movement:
    """Measure how far margins move between two cells where nothing flips.

    A margin is what stands between a decision and its runner-up, so a flip whose margin is smaller than the movement that
    all other slots show is one that this movement explains: a near tie.
    """
    import numpy as np

    found = store.query(
        f"""SELECT abs((b.null_present - b.null_absent) - (a.null_present - a.null_absent)),
          abs(b.start_margin - a.start_margin), abs(b.end_margin - a.end_margin)
          FROM answers a JOIN answers b ON b.number = a.number AND b.slot = a.slot
          WHERE a.cell = ? AND b.cell = ? AND NOT {_DIFFERS}""",
        (pair[1], pair[0]),
    )
    if not found:
        return Movement(0.0, 0.0, 0.0, 0)
    moved = np.array(found, dtype=float)
    null, start, end = (float(v) for v in np.nan_to_num(np.nanquantile(moved, _QUANTILE, axis=0)))
    return Movement(null, start, end, len(found))


def _row(store: Store, run: int, cell: int, number: int, slot: str) -> Row:
    query = f"SELECT {ROW_SELECT} FROM {ROW_TABLES} WHERE c.run = ? AND a.cell = ? AND a.number = ? AND a.slot = ?"
    return make_row(store.query(query, (run, cell, number, slot))[0])


def agreement(store: Store, run: int, *, toggles: tuple[bool, bool]) -> tuple[list[str], list[list[float | None]]]:
    """Return runtimes and, pair by pair, the share of slots that both read alike; None where they share no slot."""
    cells = {key.runtime: cell for key, cell in store.cells(run).items() if (key.normalize, key.lora) == toggles}
    names = list(cells)
    shares: list[list[float | None]] = [[1.0] * len(names) for _ in names]
    query = f"""SELECT COUNT(*), SUM(NOT {_DIFFERS}) FROM answers a
      JOIN answers b ON b.number = a.number AND b.slot = a.slot WHERE a.cell = ? AND b.cell = ?"""
    for i, first in enumerate(names):
        for j in range(i):
            n, equal = store.query(query, (cells[first], cells[names[j]]))[0]
            shares[i][j] = shares[j][i] = equal / n if n else None
    return names, shares
