"""Faults about single answers: how gold is compared, the label, the null threshold, decoding, the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.arms import Arm
from backend.diagnosis import diagnose
from backend.diagnosis_types import Cause, Diagnosis
from backend.errors import BackendError
from backend.probe import Decoding, Probe, SlotPrediction
from backend.prompt import Prompt
from backend.state_cache import StateCache
from benchmarks.deployments import Site

_Gold = dict[str, tuple[str, str]]
Inject = Callable[[Site, Prompt, Arm, StateCache], Diagnosis | None]


@dataclass(frozen=True, slots=True)
class AnswerCase:
    """A fault; ``inject`` gives None where the prompt offers no answer that the fault could change."""

    name: str
    cause: Cause
    inject: Inject


def _stable(site: Site, prompt: Prompt, arm: Arm, probe: Probe) -> list[SlotPrediction]:
    """Return the baseline's answers that the arm gives too, by the heads alone: only they can be about gold."""
    first = probe.predict(prompt, site.baseline.runtime.forward([prompt.ids], site.baseline.options)[0])
    try:
        second = probe.predict(prompt, arm.runtime.forward([prompt.ids], arm.options)[0])
    except BackendError:
        return []
    return [a for a, b in zip(first, second, strict=True) if a.value == b.value]


def _with_gold(change: Callable[[SlotPrediction, Prompt], tuple[str, str] | None]) -> Inject:
    """Take the baseline's answers for gold, and spoil the gold of those that allow it."""

    def inject(site: Site, prompt: Prompt, arm: Arm, cache: StateCache) -> Diagnosis | None:
        answers = site.probe.predict(prompt, site.baseline.runtime.forward([prompt.ids], site.baseline.options)[0])
        if not all(_plain(a, prompt) for a in answers if a.present):
            return None
        gold: _Gold = {a.slot: (a.pointer_value, a.pointer_value) for a in answers if a.present}
        spoilt = {
            a.slot: made
            for a in _stable(site, prompt, arm, site.probe)
            if a.present and (made := change(a, prompt)) is not None
        }
        if not spoilt:
            return None
        return diagnose(site.probe, prompt, site.baseline, arm, gold=gold | spoilt, cache=cache)

    return inject


def _plain(answer: SlotPrediction, prompt: Prompt) -> bool:
    """Tell whether the tokens' text is the utterance's own, so that it can stand for a label."""
    text = prompt.utterance[answer.char_span.start : answer.char_span.end]
    return bool(text) and text == answer.pointer_value


def _shorter(answer: SlotPrediction, prompt: Prompt) -> tuple[str, str] | None:
    """A label without the first character of its token, as the tokenizer merges a bracket."""
    text = answer.pointer_value
    usable = len(text) > 2 and text[1:].strip() == text[1:] and text in prompt.utterance and text[1:].isalnum()
    return (text, text[1:]) if usable else None


def _another_span(answer: SlotPrediction, prompt: Prompt) -> tuple[str, str] | None:
    words = [w for w in prompt.utterance.split() if w.isalpha() and w not in answer.pointer_value]
    return (words[0], words[0]) if words else None


def _null_threshold(site: Site, prompt: Prompt, arm: Arm, cache: StateCache) -> Diagnosis | None:
    """Raise the absent bias until every slot is absent, on both arms."""
    answers = site.probe.predict(prompt, site.baseline.runtime.forward([prompt.ids], site.baseline.options)[0])
    present = [a for a in answers if a.present and _plain(a, prompt)]
    heads = site.probe.heads
    bias = heads.null_bias.clone()
    bias[1] += 1 + max((a.null_margin for a in answers), default=0.0)
    probe = Probe(replace(heads, null_bias=bias), site.probe.builder)
    stable = {a.slot for a in _stable(site, prompt, arm, probe)}
    moved = _moved_pointers(site, prompt, arm) if stable else set()
    gold = {a.slot: (a.pointer_value, a.pointer_value) for a in present if a.slot in stable - moved}
    return diagnose(probe, prompt, site.baseline, arm, gold=gold, cache=cache) if gold else None


def _moved_pointers(site: Site, prompt: Prompt, arm: Arm) -> set[str]:
    """Return slots whose pointer the arm moves: their absence is not the threshold's alone."""
    pairs = zip(
        site.probe.predict(prompt, site.baseline.runtime.forward([prompt.ids], site.baseline.options)[0]),
        site.probe.predict(prompt, arm.runtime.forward([prompt.ids], arm.options)[0]),
        strict=True,
    )
    return {a.slot for a, b in pairs if a.pointer != b.pointer}


def _joint(site: Site, prompt: Prompt, arm: Arm, cache: StateCache) -> Diagnosis | None:
    """Decode the candidate jointly, where that changes an answer that the arm does not."""
    slots = {a.slot for a in _stable(site, prompt, arm, site.probe)}
    states = arm.runtime.forward([prompt.ids], arm.options)[0] if slots else None
    if states is None:
        return None
    pairs = zip(
        site.probe.predict(prompt, states), site.probe.predict(prompt, states, decoding=Decoding.JOINT), strict=True
    )
    if not any(a.value != b.value and a.slot in slots for a, b in pairs):
        return None
    return diagnose(site.probe, prompt, site.baseline, replace(arm, decoding=Decoding.JOINT), cache=cache)


CASES = (
    AnswerCase("gold compared against the raw label", Cause.RAW_GOLD, _with_gold(_shorter)),
    AnswerCase("label not in the text", Cause.LABEL_WRONG, _with_gold(lambda a, _: (a.pointer_value, "no such thing"))),
    AnswerCase("gold elsewhere", Cause.MODEL_ERROR, _with_gold(_another_span)),
    AnswerCase("null threshold", Cause.NULL_THRESHOLD, _null_threshold),
    AnswerCase("joint decoding", Cause.DECODING, _joint),
)
