"""The exact-match ladder: from token indices to the raw label string, and what lies between.

Exact match as upstream computes it: over slots present in gold, right when predicted present and the decoded strings are
equal. Normalised match and token F1 follow the official SQuAD v2 evaluation script.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from backend.errors import InputError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)


@dataclass(frozen=True, slots=True)
class SlotRow:
    """One slot of one example as one runtime read it, ready to count."""

    gold_present: bool
    present: bool
    tokens_equal: bool  # indices of gold and pointer, where both are present
    value: str  # decoded value, empty where predicted absent
    gold_decoded: str  # text of the gold tokens, empty where absent
    gold_raw: str  # the label as the file has it, empty where absent


@dataclass(frozen=True, slots=True)
class Metrics:
    """Shares from 0 to 1; the first six are over slots present in gold, None where there is none."""

    n_slots: int
    n_present: int
    tokens: float | None
    decoded: float | None  # the headline
    normalized: float | None
    raw: float | None
    f1: float | None
    oracle_raw: float | None  # the best that any probe can reach under raw comparison
    presence_accuracy: float
    presence_precision: float | None
    presence_recall: float | None
    all_slot_accuracy: float  # absent slots count when predicted absent
    right: int  # slots that are right by the headline


def decoded_right(row: SlotRow) -> bool:
    """Tell whether a slot present in gold was found, by the headline's definition."""
    return row.gold_present and row.present and row.value == row.gold_decoded


def slot_right(row: SlotRow) -> bool:
    """Tell whether a slot was read rightly, absence included."""
    return decoded_right(row) if row.gold_present else not row.present


def normalize_answer(text: str) -> str:
    """Fold case, drop punctuation and articles, squeeze white space, as the SQuAD v2 script does."""
    kept = "".join(char for char in text.lower() if char not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def token_f1(value: str, gold: str) -> float:
    """Return the SQuAD v2 F1 of two strings' normalised words."""
    found, wanted = normalize_answer(value).split(), normalize_answer(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def measure(rows: Iterable[SlotRow]) -> Metrics:
    """Count all rows; raises `InputError` where there is none: nothing is 0 % or 100 % of nothing."""
    n = Counter[str]()
    f1 = 0.0
    for row in rows:
        n["slots"] += 1
        n["agreed"] += row.present == row.gold_present
        n["said"] += row.present
        n["all"] += slot_right(row)
        if not row.gold_present:
            continue
        n["present"] += 1
        n["both"] += row.present
        n["tokens"] += row.present and row.tokens_equal
        n["decoded"] += decoded_right(row)
        n["normalized"] += row.present and normalize_answer(row.value) == normalize_answer(row.gold_decoded)
        n["raw"] += row.present and row.value == row.gold_raw
        n["oracle"] += row.gold_decoded == row.gold_raw
        f1 += token_f1(row.value, row.gold_decoded) if row.present else 0.0
    if n["slots"] == 0:
        raise InputError("Nothing to measure", found="no slots", remedy="Use a set with at least one example.")
    return Metrics(
        n_slots=n["slots"],
        n_present=n["present"],
        tokens=_share(n["tokens"], n["present"]),
        decoded=_share(n["decoded"], n["present"]),
        normalized=_share(n["normalized"], n["present"]),
        raw=_share(n["raw"], n["present"]),
        f1=_share(f1, n["present"]),
        oracle_raw=_share(n["oracle"], n["present"]),
        presence_accuracy=n["agreed"] / n["slots"],
        presence_precision=_share(n["both"], n["said"]),
        presence_recall=_share(n["both"], n["present"]),
        all_slot_accuracy=n["all"] / n["slots"],
        right=n["decoded"],
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
