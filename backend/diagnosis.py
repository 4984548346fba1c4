"""Why a slot was read otherwise: one factor at a time from baseline to candidate, and a verdict from a closed list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.agreement import LoraEffect, lora_effect, row_cosines
from backend.check_types import Check
from backend.diagnosis_types import Cause, Diagnosis, Evidence, LadderStep, Verdict
from backend.errors import BackendError
from backend.geometry import null_geometry, pointer_certificates
from backend.norms import normalize, token_norms
from backend.probe import Decoding, Probe, SlotPrediction
from backend.prompt import Prompt
from backend.remedies import REMEDIES
from backend.runtimes.base import ForwardOptions, Runtime

if TYPE_CHECKING:
    from torch import Tensor

_UNIT = 0.05  # norms this close to 1 everywhere were normalised
_ABSENT_EFFECT, _SAME_DIRECTION = 0.05, 0.98
_SLOPE = (0.85, 1.15)
_OTHER_BASE = 0.9  # mean cosine below this is another model, not rounding
_DTYPE_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Arm:
    """A runtime with the options it was used with."""

    runtime: Runtime
    options: ForwardOptions
    decoding: Decoding = Decoding.UPSTREAM
    file_checks: tuple[Check, ...] = ()  # what its files say, see `backend.check_files`


_FILE_CAUSES = {"same source model": Cause.OTHER_SOURCE, "adapter fits the AWQ scales": Cause.ADAPTER_MISFIT}


@dataclass(frozen=True, slots=True)
class _States:
    """``[n_tokens, d]`` float32: as the arm answers, raw with its LoRA setting, and raw without LoRA."""

    used: Tensor
    raw: Tensor
    plain: Tensor | None


def diagnose(
    probe: Probe, prompt: Prompt, baseline: Arm, candidate: Arm, *, gold: dict[str, tuple[str, str]] | None = None
) -> Diagnosis:
    """Compare two arms on one prompt.

    Args:
        probe: the heads.
        prompt: the prompt of one utterance.
        baseline: the arm that is trusted.
        candidate: the arm in question.
        gold: ``{slot: (decoded, raw label)}`` where known; a slot not named is absent.

    Raises:
        BackendError: if the baseline itself cannot answer. A candidate that breaks the contract is a verdict.
    """
    reference = _states(baseline, prompt)
    first = probe.predict(prompt, reference.used, decoding=baseline.decoding)
    try:
        found = _states(candidate, prompt)
    except BackendError as error:
        return Diagnosis(tuple(_broken(slot, error) for slot in first), (), (), (), (), None)
    ladder = _ladder(probe, prompt, baseline, candidate, reference, found)
    last = ladder[-1].slots
    cosine = row_cosines(found.raw, reference.raw)
    print_ = _fingerprint(reference, found)
    verdicts = [
        _verdict(a, b, (gold or {}).get(a.slot, ("", "")) if gold is not None else None, ladder, _Facts(
            baseline, candidate, reference, found, sum(cosine) / len(cosine), print_
        ))
        for a, b in zip(first, last, strict=True)
    ]  # fmt: skip
    return Diagnosis(
        verdicts=tuple(verdicts),
        ladder=tuple(ladder),
        geometry=null_geometry(probe, prompt, found.raw),
        certificates=pointer_certificates(probe, prompt, found.raw),
        cosine=cosine,
        fingerprint=print_,
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    baseline: Arm
    candidate: Arm
    reference: _States
    found: _States
    cosine: float
    fingerprint: LoraEffect | None


def _states(arm: Arm, prompt: Prompt) -> _States:
    runtime, options = arm.runtime, arm.options
    ids = [prompt.ids]
    raw = runtime.forward(ids, ForwardOptions(lora=options.lora))[0].float()
    used = runtime.forward(ids, options)[0].float() if options.normalize else raw
    plain = runtime.forward(ids, ForwardOptions(lora=False))[0].float() if runtime.info.has_adapter else None
    return _States(used, raw, plain)


def _ladder(
    probe: Probe, prompt: Prompt, baseline: Arm, candidate: Arm, reference: _States, found: _States
) -> list[LadderStep]:
    """Change states first, then LoRA, then normalisation, then decoding; the last step is the candidate as it answers."""
    a, b = baseline.options, candidate.options
    decode: Callable[[Tensor, Decoding], tuple[SlotPrediction, ...]] = lambda states, decoding: probe.predict(  # noqa: E731
        prompt, states, decoding=decoding
    )
    stages: list[tuple[str, tuple[SlotPrediction, ...]]] = [("baseline", decode(reference.used, baseline.decoding))]
    same_lora = (
        found.raw
        if a.lora == b.lora
        else candidate.runtime.forward([prompt.ids], ForwardOptions(lora=a.lora and candidate.runtime.info.has_adapter))[0]
    ).float()
    stages.append(("engine, dtype, weights", decode(_as(same_lora, a), baseline.decoding)))
    if a.lora != b.lora:
        stages.append(("LoRA toggle", decode(_as(found.raw, a), baseline.decoding)))
    if a.normalize != b.normalize:
        stages.append(("normalisation", decode(found.used, baseline.decoding)))
    if baseline.decoding != candidate.decoding:
        stages.append(("decoding", decode(found.used, candidate.decoding)))
    steps = []
    before = stages[0][1]
    for factor, slots in stages:
        changed = tuple(y.slot for x, y in zip(before, slots, strict=True) if _answer(x) != _answer(y))
        steps.append(LadderStep(factor, slots, changed))
        before = slots
    return steps


def _as(states: Tensor, options: ForwardOptions) -> Tensor:
    return normalize(states) if options.normalize else states


def _answer(slot: SlotPrediction) -> str | None:
    return slot.value


def _fingerprint(reference: _States, found: _States) -> LoraEffect | None:
    """The adapter's effect on both arms; None where an arm has none, or the baseline runs without it."""
    if reference.plain is None or found.plain is None or bool((reference.raw == reference.plain).all()):
        return None
    return lora_effect(found.raw, found.plain, baseline_on=reference.raw, baseline_off=reference.plain)


def _broken(slot: SlotPrediction, error: BackendError) -> Verdict:
    cause = Cause.NON_FINITE if "NaN" in error.what else Cause.TOKEN_MISMATCH
    evidence = Evidence("answer", str(error), "one finite row of states per token")
    return Verdict(slot.slot, cause, 1.0, (evidence,), error.remedy or REMEDIES[cause])


def _verdict(
    before: SlotPrediction,
    after: SlotPrediction,
    gold: tuple[str, str] | None,
    ladder: Sequence[LadderStep],
    facts: _Facts,
) -> Verdict:
    evidence = [Evidence("answer", repr(after.value), repr(before.value))]
    if _answer(before) == _answer(after):
        cause = _without_difference(after, gold)
        if cause is Cause.NONE and _fault(facts) is not None:
            # the deployment is not what it should be, although this slot survived it
            cause, more = _fault(facts) or (cause, [])
            return _made(after.slot, cause, 0.6, [*evidence, *more])
        return _made(after.slot, cause, 1.0 if gold is not None or cause is Cause.NONE else 0.5, evidence)
    step = next(step for step in reversed(ladder) if after.slot in step.changed)
    evidence.append(Evidence("first step that changes it", step.factor, "none"))
    if step.factor == "normalisation":
        return _made(after.slot, Cause.NORMALIZATION, 1.0, evidence)
    if step.factor == "LoRA toggle":
        return _made(after.slot, Cause.LORA_NOT_APPLIED, 1.0, evidence)
    if step.factor == "decoding":
        return _made(after.slot, Cause.DECODING, 1.0, evidence)
    fault = _fault(facts)
    if fault is not None:
        return _made(after.slot, fault[0], 0.95, [*evidence, *fault[1]])
    return _drift(before, after, evidence, facts)


def _without_difference(after: SlotPrediction, gold: tuple[str, str] | None) -> Cause:
    if gold is None:
        return Cause.NONE
    decoded, raw = gold
    value = after.value or ""
    if value == decoded:
        return Cause.RAW_GOLD if decoded != raw else Cause.NONE
    if not after.present and decoded and after.pointer_value == decoded:
        return Cause.NULL_THRESHOLD
    return Cause.MODEL_ERROR


def _fault(facts: _Facts) -> tuple[Cause, list[Evidence]] | None:
    """Name what is wrong with the candidate's states as a whole, if anything; order matters: gross faults first."""
    found, reference = facts.found, facts.reference
    norms = token_norms(found.raw)
    healthy = float(token_norms(reference.raw).mean())
    if bool(((norms - 1).abs() < _UNIT).all()) and abs(healthy - 1) > _UNIT:
        return Cause.NORMALIZATION, [Evidence("mean norm of raw states", f"{float(norms.mean()):.3f}", f"{healthy:.2f}")]
    shifted = _shift(found.raw, reference.raw)
    if shifted is not None:
        return Cause.ROWS_SHIFTED, [Evidence("rows agree with the baseline's when moved by", str(shifted), "0")]
    if found.plain is not None and reference.plain is not None:
        base = sum(row_cosines(found.plain, reference.plain)) / len(found.plain)
        if base < _OTHER_BASE:
            return Cause.OTHER_SOURCE, [Evidence("mean cosine without LoRA", f"{base:.4f}", f"at least {_OTHER_BASE}")]
    for check in facts.candidate.file_checks:
        if not check.passed and check.name in _FILE_CAUSES:
            return _FILE_CAUSES[check.name], [Evidence(check.name, check.observed, check.expected)]
    if facts.fingerprint is None:
        return None
    direction, slope = facts.fingerprint.cosine, facts.fingerprint.slope
    evidence = [Evidence("adapter's effect", f"cosine {direction:.3f}, slope {slope:.3f}", "cosine near 1, slope near 1")]
    if abs(slope) < _ABSENT_EFFECT:
        return Cause.LORA_NOT_APPLIED, evidence
    four_bit = facts.candidate.runtime.spec.model != facts.baseline.runtime.spec.model
    floor = 0.9 if four_bit else _SAME_DIRECTION
    if direction < 0.3:
        return Cause.OTHER_ADAPTER, evidence
    if direction < floor:
        return (Cause.ADAPTER_MISFIT if four_bit else Cause.LORA_PARTIAL), evidence
    if not _SLOPE[0] <= slope <= _SLOPE[1]:
        return Cause.LORA_SCALE, evidence
    return None


def _shift(found: Tensor, reference: Tensor) -> int | None:
    """Return by how many rows the states are moved, if a move makes them equal."""
    for by in (1, -1, 2, -2):
        if abs(by) >= len(found):
            continue
        a, b = (found[by:], reference[:-by]) if by > 0 else (found[:by], reference[-by:])
        if min(row_cosines(a, b)) > _DTYPE_COSINE:
            return by
    return None


def _drift(before: SlotPrediction, after: SlotPrediction, evidence: list[Evidence], facts: _Facts) -> Verdict:
    """No fault in the deployment: the answer moved with rounding. A near tie is one that such rounding can turn."""
    spec, reference = facts.candidate.runtime.spec, facts.baseline.runtime.spec
    margin = min(abs(before.null_margin), before.start_margin, before.end_margin)
    moved = max(
        abs(before.null_margin - after.null_margin),
        abs(before.start_score - after.start_score),
        abs(before.end_score - after.end_score),
    )
    evidence = [
        *evidence,
        Evidence("smallest margin of the baseline", f"{margin:.3f}", f"above {moved:.3f}, what the scores moved by"),
        Evidence("mean cosine of states", f"{facts.cosine:.5f}", "near 1"),
    ]
    near_tie = margin <= 2 * moved
    if spec.model != reference.model:
        cause = Cause.QUANTIZATION_NEAR_TIE if near_tie else Cause.QUANTIZATION_DRIFT
    elif spec.dtype != reference.dtype:
        cause = Cause.DTYPE_DRIFT
    else:
        cause = Cause.ENGINE_DRIFT
    return _made(after.slot, cause, 0.9 if near_tie else 0.7, evidence)


def _made(slot: str, cause: Cause, confidence: float, evidence: list[Evidence]) -> Verdict:
    return Verdict(slot, cause, confidence, tuple(evidence), REMEDIES[cause])
