"""What became of runs whose processes were killed, against one that nobody disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isclose

from backend.store import Row

_DECIDED = ("present", "right", "tokens_equal", "value", "char_start", "char_end", "gold_decoded", "utterance")
_MEASURED = ("null_present", "null_absent", "query_norm")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, from its start to its end."""

    kills: int
    rows: int
    in_commit: int = 0  # kills that struck in a COMMIT
    repeated: int = 0  # batches computed again
    lost: int = 0
    doubled: int = 0
    changed: int = 0  # rows that differ from the undisturbed run
    orphans: int = 0  # processes that were left


def compare(expected: Sequence[Row], found: Sequence[Row], outcome: Outcome, *, rounding: float = 0.0) -> Outcome:
    """Count what is lost, doubled or changed; engines may differ in measured values by ``rounding``, relative."""
    want, have = ({(r.runtime, r.normalize, r.lora, r.example, r.slot): r for r in rows} for rows in (expected, found))
    changed = sum(not _same(have[key], row, rounding) for key, row in want.items() if key in have)
    lost, doubled = len(want.keys() - have.keys()), len(found) - len(have)
    return replace(outcome, rows=len(found), lost=lost, doubled=doubled, changed=changed)


def _same(found: Row, expected: Row, rounding: float) -> bool:
    if not rounding:
        return found == expected
    decided = all(getattr(found, name) == getattr(expected, name) for name in _DECIDED)
    near = (isclose(getattr(found, n), getattr(expected, n), rel_tol=rounding, abs_tol=rounding) for n in _MEASURED)
    return decided and all(near)


def sound(outcomes: Sequence[Outcome]) -> bool:
    """Tell whether nothing was lost, doubled, changed or left, and no kill cost more than one batch."""
    return all(not (o.lost or o.doubled or o.changed or o.orphans) and o.repeated <= o.kills for o in outcomes) and bool(
        outcomes
    )
