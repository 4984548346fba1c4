"""Where a candidate loses: exact match by function, slot, value kind, and length, sorted by damage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.statistics import wilson
from backend.store import Store

_CHARACTERS = (40, 80, 160, 320)  # upper ends of buckets, inclusive
_TOKENS = (32, 64, 128, 256)


class By(StrEnum):
    """What slots are grouped by."""

    FUNCTION = "Function"
    SLOT = "Slot"
    KIND = "Value kind"
    LENGTH = "Utterance length"
    TOKENS = "Prompt tokens"


@dataclass(frozen=True, slots=True)
class Slice:
    """Slots present in gold that have one thing in common."""

    name: str
    n: int
    exact_match: float  # of the candidate, share
    ci95: tuple[float, float]  # Wilson
    baseline: float  # exact match of the baseline on the same slots
    regressions: int
    improvements: int

    @property
    def damage(self) -> int:
        """Return how many slots more are wrong than with the baseline."""
        return self.regressions - self.improvements


def make_slices(store: Store, pair: tuple[int, int], *, by: By) -> list[Slice]:
    """Group the slots that both cells have, the most damaged group first, then the least exact.

    Args:
        store: where the run is.
        pair: ids of baseline's and candidate's cell.
        by: the grouping.
    """
    columns = {
        By.FUNCTION: "e.function",
        By.SLOT: "e.function || '.' || a.slot",
        By.KIND: "l.kind",
        By.LENGTH: _bucket("length(e.utterance)", _CHARACTERS),
        By.TOKENS: _bucket("e.n_tokens", _TOKENS),
    }
    found = store.query(
        f"""SELECT {columns[by]} AS name, COUNT(*), SUM(a.right), SUM(b.right), SUM(b.right AND NOT a.right),
          SUM(a.right AND NOT b.right) FROM cells c JOIN answers a ON a.cell = c.id
          JOIN answers b ON b.cell = ? AND b.number = a.number AND b.slot = a.slot
          JOIN examples e ON e.run = c.run AND e.number = a.number
          JOIN labels l ON l.run = c.run AND l.number = a.number AND l.slot = a.slot
          WHERE c.id = ? AND a.gold_present GROUP BY name""",
        pair,
    )
    ends = {By.LENGTH: (_CHARACTERS, "characters"), By.TOKENS: (_TOKENS, "tokens")}.get(by)
    slices = [
        Slice(_range(name, *ends) if ends else str(name), n, right / n, wilson(right, n), base / n, worse, better)
        for name, n, right, base, worse, better in found
    ]
    return sorted(slices, key=lambda s: (-s.damage, s.exact_match, -s.n))


def _bucket(value: str, ends: tuple[int, ...]) -> str:
    cases = " ".join(f"WHEN {value} <= {end} THEN {place}" for place, end in enumerate(ends))
    return f"CASE {cases} ELSE {len(ends)} END"


def _range(place: int, ends: tuple[int, ...], unit: str) -> str:
    if place == len(ends):
        return f"over {ends[-1]} {unit}"
    return f"{ends[place - 1] + 1 if place else 1} to {ends[place]} {unit}"
