"""The shift of the null decision that would serve a cell best."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import InputError
from backend.store import Store


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """Presence accuracy against a shift of the null decision; positive shifts say absent more often."""

    shifts: tuple[float, ...]  # logits
    accuracy: tuple[float, ...]
    best_shift: float
    best_accuracy: float
    n: int  # slots


def threshold_curve(store: Store, cell: int) -> ThresholdCurve:
    """Count presence accuracy at 81 shifts from -10 to 10 of one cell; raises `InputError` where it has no rows."""
    import numpy as np

    found = store.query("SELECT null_present - null_absent, gold_present FROM answers WHERE cell = ?", (cell,))
    if not found:
        raise InputError("This cell has no rows yet", remedy="Wait for its first batch.")
    margins, gold = (np.array(column) for column in zip(*found, strict=True))
    shifts = np.linspace(-10, 10, 81)
    accuracy = [float(((margins >= shift) == gold).mean()) for shift in shifts]
    best = int(np.argmax(accuracy))
    return ThresholdCurve(tuple(shifts.tolist()), tuple(accuracy), float(shifts[best]), accuracy[best], len(found))
