"""The exact-match ladder: from token indices to the raw label string, and what lies between.

Exact match as upstream computes it: over slots present in gold, right when predicted present and the decoded strings are
equal. Normalised match and token F1 follow the official SQuAD v2 evaluation script.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from backend.errors import InputError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


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
class Judged:
    """One slot compared with its gold; all but ``right`` are of slots present in gold."""

    right: bool  # the headline: predicted present and decoded strings equal; where gold is absent, predicted absent
    tokens: bool
    normalized: bool
    raw: bool
    oracle: bool  # gold tokens decode to the raw label
    f1: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over slots; from ``n_present`` on, over slots present in gold."""

    n_slots: int
    agreed: int  # on presence
    said: int  # predicted present
    all_right: int
    n_present: int
    both: int  # predicted present too
    tokens: int
    decoded: int
    normalized: int
    raw: int
    oracle: int
    f1: float


_COUNTED = tuple(field.name for field in fields(Counts) if field.name != "f1")


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


def normalize_answer(text: str) -> str:
    """Fold case, drop punctuation and articles, squeeze white space, as the SQuAD v2 script does."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


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


def judge(row: SlotRow) -> Judged:
    """Compare one slot with its gold, rung by rung of the ladder."""
    if not row.gold_present:
        return Judged(right=not row.present, tokens=False, normalized=False, raw=False, oracle=False, f1=0.0)
    oracle = row.gold_decoded == row.gold_raw
    if not row.present:
        return Judged(right=False, tokens=False, normalized=False, raw=False, oracle=oracle, f1=0.0)
    right = row.value == row.gold_decoded
    return Judged(
        right=right,
        tokens=row.tokens_equal,
        # equal strings need no normalising, which is what most slots are
        normalized=right or normalize_answer(row.value) == normalize_answer(row.gold_decoded),
        raw=row.value == row.gold_raw,
        oracle=oracle,
        f1=1.0 if right else token_f1(row.value, row.gold_decoded),
    )


def measure(rows: Iterable[SlotRow]) -> Metrics:
    """Count all rows; raises `InputError` where there is none: nothing is 0 % or 100 % of nothing."""
    n = Counter[str]()
    f1 = 0.0
    for row in rows:
        judged = judge(row)
        n["n_slots"] += 1
        n["agreed"] += row.present == row.gold_present
        n["said"] += row.present
        n["all_right"] += judged.right
        if row.gold_present:
            n["n_present"] += 1
            n["both"] += row.present
            n["tokens"] += judged.tokens
            n["decoded"] += judged.right
            n["normalized"] += judged.normalized
            n["raw"] += judged.raw
            n["oracle"] += judged.oracle
            f1 += judged.f1
    return metrics_of(Counts(**{name: n[name] for name in _COUNTED}, f1=f1))


def metrics_of(counts: Counts) -> Metrics:
    """Turn counts into shares; raises `InputError` where nothing was counted."""
    c = counts
    if c.n_slots == 0:
        raise InputError("Nothing to measure", found="no slots", remedy="Use a set with at least one example.")
    return Metrics(
        n_slots=c.n_slots,
        n_present=c.n_present,
        tokens=_share(c.tokens, c.n_present),
        decoded=_share(c.decoded, c.n_present),
        normalized=_share(c.normalized, c.n_present),
        raw=_share(c.raw, c.n_present),
        f1=_share(c.f1, c.n_present),
        oracle_raw=_share(c.oracle, c.n_present),
        presence_accuracy=c.agreed / c.n_slots,
        presence_precision=_share(c.both, c.said),
        presence_recall=_share(c.both, c.n_present),
        all_slot_accuracy=c.all_right / c.n_slots,
        right=c.decoded,
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
