"""Slots that two cells of a run read differently, and the null threshold that would serve a cell best."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.metrics import slot_right
from backend.report import slot_row
from backend.store import Row, Store


class Show(StrEnum):
    """Which slots a table lists."""

    DIFFERENT = "Different"
    REGRESSIONS = "Regressions"
    IMPROVEMENTS = "Improvements"
    ALL_WRONG = "All wrong"
    ALL = "All"


@dataclass(frozen=True, slots=True)
class Flip:
    """One slot in two cells."""

    baseline: Row
    candidate: Row
    baseline_right: bool
    candidate_right: bool

    @property
    def different(self) -> bool:
        """Tell whether the answers differ, right or wrong."""
        a, b = self.baseline, self.candidate
        return (a.present, a.value) != (b.present, b.value)

    @property
    def margin(self) -> float:
        """Return the candidate's smallest decision margin: small ones are near ties."""
        row = self.candidate
        margins = [abs(row.null_present - row.null_absent)]
        margins += [m for m in (row.start_margin, row.end_margin) if m is not None and row.present]
        return min(margins)


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """Presence accuracy against a shift of the null decision; positive shifts say absent more often."""

    shifts: tuple[float, ...]
    accuracy: tuple[float, ...]
    best_shift: float
    best_accuracy: float


def list_flips(
    store: Store, run: int, baseline: str, candidate: str, *, toggles: tuple[bool, bool], show: Show, limit: int = 2000
) -> list[Flip]:
    """Return slots in order of example and slot, ``limit`` at most; ``toggles`` are (normalize, lora)."""
    normalize, lora = toggles
    where = "AND runtime = ? AND normalize = ? AND lora = ? ORDER BY example, slot"
    first, second = (
        store.rows(run, where=where, values=(name, int(normalize), int(lora))) for name in (baseline, candidate)
    )
    found = []
    other = {(row.example, row.slot): row for row in first}
    for row in second:
        base = other.get((row.example, row.slot))
        if base is None:
            continue  # the baseline has not come this far yet
        flip = Flip(base, row, slot_right(slot_row(base)), slot_right(slot_row(row)))
        if _wanted(flip, show):
            found.append(flip)
            if len(found) == limit:
                break
    return found


def _wanted(flip: Flip, show: Show) -> bool:
    return {
        Show.ALL: True,
        Show.DIFFERENT: flip.different,
        Show.REGRESSIONS: flip.baseline_right and not flip.candidate_right,
        Show.IMPROVEMENTS: flip.candidate_right and not flip.baseline_right,
        Show.ALL_WRONG: not flip.baseline_right and not flip.candidate_right,
    }[show]


def threshold_curve(store: Store, run: int, runtime: str, *, toggles: tuple[bool, bool]) -> ThresholdCurve:
    """Count presence accuracy at 81 shifts from -10 to 10 of one cell; raises as `Store.rows`."""
    import numpy as np

    where = "AND runtime = ? AND normalize = ? AND lora = ?"
    rows = store.rows(run, where=where, values=(runtime, int(toggles[0]), int(toggles[1])))
    pairs = [(row.null_present - row.null_absent, row.gold_present) for row in rows]
    margins, gold = (np.array(column) for column in zip(*pairs, strict=True))
    shifts = np.linspace(-10, 10, 81)
    accuracy = [float(((margins >= shift) == gold).mean()) for shift in shifts]
    best = int(np.argmax(accuracy))
    return ThresholdCurve(tuple(shifts.tolist()), tuple(accuracy), float(shifts[best]), accuracy[best])
