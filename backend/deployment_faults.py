"""What is wrong with a deployment, named from the states it gives: one look at a time, each with the earlier ones undone.

Normalisation shows in the norms; the rows' places are found by asking the runtime (`token_alignment`); base and adapter
are compared with a baseline that has the faults found so far (`weight_faults`). So faults of different kinds are named
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.arms import Arm
from backend.diagnosis_types import Cause, Evidence, Finding
from backend.errors import BackendError
from backend.file_faults import other_source
from backend.runtimes.base import ForwardOptions, Runtime
from backend.state_cache import StateCache
from backend.state_view import view_of
from backend.weight_faults import adapter_faults, base_faults

ADAPTER_CAUSES = frozenset(
    {
        Cause.LORA_NOT_APPLIED,
        Cause.LORA_PARTIAL,
        Cause.LORA_SCALE,
        Cause.LORA_TWICE,
        Cause.OTHER_ADAPTER,
        Cause.ADAPTER_MISFIT,
    }
)


@dataclass(frozen=True, slots=True)
class Faults:
    """What was found, and what later steps need of it."""

    findings: tuple[Finding, ...]
    unit: bool = False  # the candidate normalises although it was not asked to
    scorable: bool = True  # one finite row a token


def find_faults(
    baseline: Arm,
    candidate: Arm,
    ids: Sequence[int],
    cache: StateCache,
    *,
    lab: Runtime | None = None,
    twin: Runtime | None = None,
) -> Faults:
    """Name what is wrong with the candidate.

    Args:
        baseline: the arm that is trusted.
        candidate: the arm in question.
        ids: a prompt of four or more tokens; fewer leave alignment untried.
        cache: where states are kept.
        lab: an HF runtime with the baseline's weights and adapter, for naming what is wrong with an adapter.
        twin: an HF runtime of the candidate's own files. It parts what the files are (twin against baseline) from how they
            are served (candidate against twin), each exactly; without it one comparison has to tell both.

    Raises:
        BackendError: if the baseline cannot answer, or the candidate for a reason that is no fault of its states.
    """
    found = list(_options(baseline, candidate))
    if twin is None:
        served = _compared(baseline, candidate, ids, cache, lab)
        return replace(served, findings=_with_files([*found, *served.findings], candidate.files))
    middle = Arm(twin, ForwardOptions(lora=candidate.options.lora))
    served = _compared(middle, candidate, ids, cache, twin)
    weights = _compared(baseline, middle, ids, cache, lab)
    files = _with_files(weights.findings, candidate.files)
    serving = {finding.cause: finding for finding in served.findings}
    joined = {finding.cause: finding for finding in [*found, *files]} | serving
    return replace(served, findings=tuple(joined.values()))


def _compared(baseline: Arm, candidate: Arm, ids: Sequence[int], cache: StateCache, lab: Runtime | None) -> Faults:
    sizes = baseline.runtime.info.d_model, candidate.runtime.info.d_model
    if sizes[0] != sizes[1]:
        evidence = Evidence("hidden size", str(sizes[1]), str(sizes[0]))
        return Faults((Finding(other_source(candidate.runtime.spec.model), 1.0, (evidence,)),), scorable=False)
    broken, answered = _contract(candidate, ids, cache)
    found = [broken] if broken is not None else []
    if not answered:
        return Faults(tuple(found), scorable=False)
    view, more = view_of(baseline, candidate, ids[:answered], cache, lab)
    base, usable = base_faults(view, candidate)
    found += [*more, *base]
    if candidate.options.lora and baseline.runtime.info.has_adapter and not _named(base, Cause.LORA_TWICE):
        found += adapter_faults(view, candidate, comparable=usable)
    return Faults(tuple(found), view.unit, scorable=broken is None)


def _options(baseline: Arm, candidate: Arm) -> list[Finding]:
    """Toggles that differ on purpose name their causes too."""
    found = []
    if candidate.options.normalize and not baseline.options.normalize:
        found.append(Finding(Cause.NORMALIZATION, 1.0, (Evidence("normalisation", "asked for", "off"),)))
    if baseline.options.lora and not candidate.options.lora:
        found.append(Finding(Cause.LORA_NOT_APPLIED, 1.0, (Evidence("LoRA", "left out", "on"),)))
    return found


def _contract(candidate: Arm, ids: Sequence[int], cache: StateCache) -> tuple[Finding | None, int]:
    """Return what is wrong with the answer as such, and for how many tokens from the start there is one."""
    options = ForwardOptions(lora=candidate.options.lora)
    limit = candidate.runtime.info.max_tokens
    if len(ids) > limit:
        evidence = Evidence("tokens the runtime takes", str(limit), f"at least {len(ids)}")
        return Finding(Cause.TRUNCATED, 1.0, (evidence,)), limit
    try:
        cache.states(candidate.runtime, ids, options)
        return None, len(ids)
    except BackendError as error:
        if "NaN" in error.what:
            return Finding(Cause.NON_FINITE, 1.0, (Evidence("states", str(error.found), "finite"),)), 0
        if "token contract" not in error.what:
            raise  # a server that is gone is not a fault of its states
        observed = error.found
    # a prompt cut by length answers shorter ones rightly; one with a token too many or too few never does
    length = len(ids) // 2
    while length >= 1:
        try:
            cache.states(candidate.runtime, ids[:length], options)
        except BackendError:
            length //= 2
            continue
        evidence = Evidence("rows", f"{observed}; right for the first {length} tokens alone", f"{len(ids)}")
        return Finding(Cause.TRUNCATED, 1.0, (evidence,)), length
    return Finding(Cause.TOKEN_MISMATCH, 1.0, (Evidence("rows", observed, f"{len(ids)} for {len(ids)} tokens"),)), 0


def _named(findings: Sequence[Finding], cause: Cause) -> bool:
    return any(finding.cause is cause for finding in findings)


def _with_files(found: Sequence[Finding], files: Sequence[Finding]) -> tuple[Finding, ...]:
    """Join what states and files say. Files know an adapter's fault exactly; that it does nothing at all, states know."""
    named = {finding.cause for finding in files}
    kept = []
    for finding in found:
        by_files = named & ADAPTER_CAUSES and finding.cause in ADAPTER_CAUSES - {Cause.LORA_NOT_APPLIED}
        config = Cause.CONFIG_MISMATCH in named and finding.cause in (Cause.OTHER_SOURCE, Cause.QUANTIZED_OTHER_SOURCE)
        if finding.cause in named or not (by_files or config):
            kept.append(finding)
    joined = {finding.cause: finding for finding in kept}
    for finding in files:
        known = joined.get(finding.cause)
        evidence = (*(known.evidence if known else ()), *finding.evidence)
        joined[finding.cause] = Finding(finding.cause, max(finding.confidence, known.confidence if known else 0), evidence)
    return tuple(joined.values())
