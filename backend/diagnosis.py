"""Why a slot was read otherwise: faults of the deployment, one factor at a time, and verdicts from a closed list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.agreement import LoraEffect, lora_effect, row_cosines
from backend.answers import answer_text
from backend.arms import PLAIN, Arm, states_of
from backend.deployment_faults import ADAPTER_CAUSES, find_faults
from backend.diagnosis_types import ArmView, Cause, Diagnosis, Evidence, Finding, SlotShares, Verdict
from backend.file_faults import is_quantized
from backend.geometry import null_geometry, pointer_certificates
from backend.gold_causes import Gold, gold_cause
from backend.ladder import DECODING, LORA, NORMALIZATION, Ladder
from backend.norms import norm_stats, token_norms
from backend.probe import Probe, SlotPrediction
from backend.prompt import Prompt
from backend.remedies import remedy
from backend.runtimes.base import Engine, ForwardOptions, Runtime
from backend.state_cache import StateCache

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Arm", "diagnose"]

_SURVIVED = 0.6  # confidence in a fault of the deployment where this slot's answer did not change


def diagnose(
    probe: Probe,
    prompt: Prompt,
    baseline: Arm,
    candidate: Arm,
    *,
    gold: Gold | None = None,
    others: Sequence[Runtime] = (),
    cache: StateCache | None = None,
) -> Diagnosis:
    """Compare two arms on one prompt.

    Args:
        probe: the heads.
        prompt: the prompt of one utterance.
        baseline: the arm that is trusted.
        candidate: the arm in question.
        gold: ``{slot: (decoded, raw label)}`` where known; a slot not named is absent.
        others: live runtimes that may stand between the arms, so that a step of the ladder changes one factor.
        cache: states computed before; they make a second look cheap.

    Raises:
        BackendError: if the baseline cannot answer, or the candidate is gone. A candidate that breaks the contract is a
            verdict.
    """
    kept = cache or StateCache()
    reference = states_of(baseline, prompt.ids, kept)
    lab = _lab(baseline.runtime, others)
    faults = find_faults(baseline, candidate, prompt.ids, kept, lab=lab, twin=_twin(baseline, candidate, others))
    first = probe.predict(prompt, reference.used, decoding=baseline.decoding)
    views = (_view(probe, prompt, baseline, reference.used, first),)
    if not faults.scorable:
        verdicts = tuple(_of(finding, slot.slot, candidate, 1.0) for slot in first for finding in faults.findings)
        return Diagnosis(faults.findings, verdicts, (), (), (), (), (), None, views)
    ladder = Ladder(probe, prompt, baseline, candidate, faults, others, kept)
    steps, shares = ladder.steps(gold), {found.slot: found for found in ladder.shares()}
    found = states_of(candidate, prompt.ids, kept)
    last = steps[-1].slots
    verdicts = tuple(
        verdict
        for before, after in zip(first, last, strict=True)
        for verdict in _verdicts(before, after, prompt, candidate, faults.findings, shares.get(after.slot), ladder, gold)
    )
    return Diagnosis(
        faults=faults.findings,
        verdicts=verdicts,
        ladder=steps,
        shares=tuple(shares.values()),
        geometry=null_geometry(probe, prompt, found.raw),
        certificates=pointer_certificates(probe, prompt, found.raw),
        cosine=row_cosines(found.raw, reference.raw),
        fingerprint=_fingerprint(baseline, candidate, prompt, kept),
        arms=(*views, _view(probe, prompt, candidate, found.used, last)),
    )


def _lab(baseline: Runtime, others: Sequence[Runtime]) -> Runtime | None:
    """Return an HF runtime of the baseline's weights: it can say what a changed adapter would give."""
    wanted = baseline.spec.model, baseline.spec.adapter
    same = (runtime for runtime in (baseline, *others) if (runtime.spec.model, runtime.spec.adapter) == wanted)
    return next((runtime for runtime in same if hasattr(runtime, "forward_edited")), None)


def _twin(baseline: Arm, candidate: Arm, others: Sequence[Runtime]) -> Runtime | None:
    """Return an HF runtime of the candidate's own files, where those are not the baseline's."""
    mine = candidate.runtime.spec
    if (mine.model, mine.adapter) == (baseline.runtime.spec.model, baseline.runtime.spec.adapter):
        return None  # the baseline is that twin
    same = (runtime for runtime in others if hasattr(runtime, "forward_edited") and runtime is not candidate.runtime)
    wanted = mine.model, mine.adapter, mine.dtype
    return next((r for r in same if (r.spec.model, r.spec.adapter, r.spec.dtype) == wanted), None)


def _view(probe: Probe, prompt: Prompt, arm: Arm, states: Tensor, slots: tuple[SlotPrediction, ...]) -> ArmView:
    scores = probe.scores(prompt, states)
    rows = [tuple(tuple(row) for row in table.tolist()) for table in (scores.start, scores.end)]
    return ArmView(arm.runtime.spec.name, norm_stats(states), tuple(token_norms(states).tolist()), rows[0], rows[1], slots)


def _fingerprint(baseline: Arm, candidate: Arm, prompt: Prompt, cache: StateCache) -> LoraEffect | None:
    if not (baseline.runtime.info.has_adapter and candidate.runtime.info.has_adapter):
        return None
    on, off = ForwardOptions(), PLAIN
    theirs = [cache.states(baseline.runtime, prompt.ids, how) for how in (on, off)]
    ours = [cache.states(candidate.runtime, prompt.ids, how) for how in (on, off)]
    if bool((theirs[0] == theirs[1]).all()):
        return None
    return lora_effect(ours[0], ours[1], baseline_on=theirs[0], baseline_off=theirs[1])


def _verdicts(
    before: SlotPrediction,
    after: SlotPrediction,
    prompt: Prompt,
    candidate: Arm,
    faults: Sequence[Finding],
    shares: SlotShares | None,
    ladder: Ladder,
    gold: Gold | None,
) -> list[Verdict]:
    answer = _answer(before, after)
    if shares is None:
        cause, evidence = gold_cause(after, gold, prompt.utterance)
        if cause is Cause.NONE and faults:
            # the deployment is not what it should be, although this slot survived it
            return [_of(finding, after.slot, candidate, _SURVIVED, answer) for finding in faults]
        sure = 1.0 if gold is not None or cause is Cause.NONE else 0.5
        return [_made(after.slot, cause, sure, (answer, *evidence), candidate)]
    told = dict(shares.shares)
    made = []
    for factor, share in shares.shares:
        if share <= 0:
            continue
        evidence = (answer, Evidence("share of the change", f"{factor} {share:.2f}", "0"))
        if factor == DECODING:
            made.append(_made(after.slot, Cause.DECODING, 1.0, evidence, candidate))
        blamed = [finding for finding in faults if _factor_of(finding.cause, ladder) in factor.split(", ")]
        made += [_of(finding, after.slot, candidate, 1.0, *evidence) for finding in blamed]
    if made:
        return made
    if faults:  # a fault that no factor stands for; the rows of another token, say
        return [_of(finding, after.slot, candidate, 0.8, answer) for finding in faults]
    return [_drift(before, after, candidate, ladder, max(told, key=lambda name: told[name]))]


def _factor_of(cause: Cause, ladder: Ladder) -> str:
    """Return the factor of the ladder that a fault acts through."""
    if cause is Cause.NORMALIZATION:
        return NORMALIZATION
    if cause in ADAPTER_CAUSES and LORA in ladder.factors:
        return LORA
    return ladder.runtime_factors[-1].split(", ")[-1] if ladder.runtime_factors else ""


def _drift(before: SlotPrediction, after: SlotPrediction, candidate: Arm, ladder: Ladder, factor: str) -> Verdict:
    """No fault in the deployment: the answer moved with rounding. A near tie is one that such rounding can turn."""
    margin = min(abs(before.null_margin), before.start_margin, before.end_margin)
    moved = max(
        abs(before.null_margin - after.null_margin),
        abs(before.start_score - after.start_score),
        abs(before.end_score - after.end_score),
    )
    evidence = (
        _answer(before, after),
        Evidence("first factor that changes it", factor, "none"),
        Evidence("smallest margin of the baseline", f"{margin:.3f}", f"above {moved:.3f}, what the scores moved by"),
    )
    near_tie = margin <= 2 * moved
    a, b = ladder.baseline.runtime.spec, candidate.runtime.spec
    if "quantisation" in factor and is_quantized(b.model):
        cause = Cause.QUANTIZATION_NEAR_TIE if near_tie else Cause.QUANTIZATION_DRIFT
    elif "dtype" in factor or (factor not in ("engine", "serving") and a.dtype != b.dtype):
        cause = Cause.DTYPE_DRIFT
    else:
        cause = Cause.ENGINE_DRIFT if a.engine is not b.engine or b.engine is Engine.VLLM else Cause.DTYPE_DRIFT
    return _made(after.slot, cause, 0.9 if near_tie else 0.7, evidence, candidate)


def _answer(before: SlotPrediction, after: SlotPrediction) -> Evidence:
    return Evidence("answer", answer_text(after.value, quoted=True), answer_text(before.value, quoted=True))


def _of(finding: Finding, slot: str, candidate: Arm, weight: float, *first: Evidence) -> Verdict:
    confidence = finding.confidence * weight
    return _made(slot, finding.cause, confidence, (*first, *finding.evidence), candidate)


def _made(slot: str, cause: Cause, confidence: float, evidence: tuple[Evidence, ...], candidate: Arm) -> Verdict:
    return Verdict(slot, cause, round(confidence, 3), evidence, remedy(cause, candidate.runtime.spec))
