"""What gold says about an answer that both arms give alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from backend.answers import answer_text
from backend.diagnosis_types import Cause, Evidence
from backend.probe import SlotPrediction

Gold = Mapping[str, tuple[str, str]]  # slot to (text of the gold tokens, raw label); a slot not named is absent


def gold_cause(slot: SlotPrediction, gold: Gold | None, utterance: str) -> tuple[Cause, tuple[Evidence, ...]]:
    """Name why an answer counts as wrong, or none if it does not."""
    if gold is None:
        return Cause.NONE, ()
    decoded, raw = gold.get(slot.slot, ("", ""))
    value = slot.value or ""
    wrong_label = _label_problem(decoded, raw, utterance) if decoded else None
    if wrong_label is not None:
        return Cause.LABEL_WRONG, (wrong_label,)
    if value == decoded:
        if decoded == raw:
            return Cause.NONE, ()
        return Cause.RAW_GOLD, (Evidence("raw label", repr(raw), f"{decoded!r}, the text of the gold tokens"),)
    expected = Evidence("gold", answer_text(slot.value, quoted=True), answer_text(decoded or None, quoted=True))
    if not slot.present and decoded and slot.pointer_value == decoded:
        margin = Evidence("null margin of a pointer that is right", f"{slot.null_margin:+.2f}", "above 0")
        return Cause.NULL_THRESHOLD, (expected, margin)
    return Cause.MODEL_ERROR, (expected,)


def _label_problem(decoded: str, raw: str, utterance: str) -> Evidence | None:
    """Tell whether the label contradicts the text: no probe can be right about it."""
    if _squeezed(raw) not in _squeezed(utterance):
        return Evidence("label", repr(raw), "a part of the utterance")
    if _squeezed(raw) not in _squeezed(decoded) and _squeezed(decoded) not in _squeezed(raw):
        return Evidence("label", repr(raw), f"the text at its own offsets, {decoded!r}")
    return None


def _squeezed(text: str) -> str:
    """Fold what tokenizers may change in decoding: case, white space, and how a character is composed."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
