"""Which wordings and values training may see: split once, by hash, so that every command agrees."""

from __future__ import annotations

from enum import StrEnum

from demo.grammar import bucket

_HELD_OUT_WORDINGS = 9  # one wording in nine is kept for evaluation,
_HELD_OUT_VALUES = 5  # and one value in five;
_VALIDATION = 20  # of the others one in twenty, of both


class Side(StrEnum):
    """A side of the split; each wording and each value is on one only."""

    TRAIN = "train"
    VALIDATION = "validation"  # withheld from training too, to choose settings without looking at the held-out side
    HELD_OUT = "held-out"


def wording_side(line: str) -> Side:
    """Return the side of a line of ``templates/``."""
    if bucket(line, _HELD_OUT_WORDINGS) == 0:
        return Side.HELD_OUT
    return Side.VALIDATION if bucket("validation " + line, _VALIDATION) == 0 else Side.TRAIN


def value_side(value: str) -> Side:
    """Return the side of a slot value; case is ignored because noise changes it."""
    folded = value.casefold()
    if bucket(folded, _HELD_OUT_VALUES) == 0:
        return Side.HELD_OUT
    return Side.VALIDATION if bucket("validation " + folded, _VALIDATION) == 0 else Side.TRAIN
