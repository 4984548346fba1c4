"""What is wrong with a deployment, named from the states it gives: one look at a time, each with the earlier ones undone.

Normalisation shows in the norms; the rows' places are found by asking the runtime (`token_alignment`); the base is compared
without LoRA, so that no adapter can blur it; the adapter by changing the baseline's own (`adapter_fit`). Because each look
compares with a baseline that has the faults found so far, faults of different kinds are named together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.adapter_fit import fit_missing, fit_scale
from backend.agreement import likeness, row_errors
from backend.arms import PLAIN, Arm
from backend.diagnosis_types import Cause, Evidence, Finding
from backend.errors import BackendError
from backend.file_faults import is_quantized, other_source
from backend.norms import normalize, token_norms
from backend.runtimes.adapter_edit import AdapterEdit
from backend.runtimes.base import ForwardOptions, Runtime
from backend.state_cache import StateCache
from backend.token_alignment import Alignment, find_alignment

if TYPE_CHECKING:
    from torch import Tensor

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
_RAW = ForwardOptions()
# Rounding of a deep model: eps of the coarser dtype times a random walk over some 170 roundings on the way to a state.
# Seen: BF16 0.009 on the demo and 0.007 on random models (this allows 0.10), FP16 0.001 (0.013).
_WALK = 13.0
_ENGINE = 1e-3  # kernels that add in another order differ by this even in float32
# A state is that of its own token if it is nearer to it than to unrelated ones: half way from unrelated (0) to equal (1).
_SAME = 0.5
# The adapter's part carries the base's noise once more, independent of it, if it is right; more is a fault of its own.
_TWO_NOISES = 2**0.5
_NO_EFFECT = 0.05  # of the adapter's effect on the baseline
_TWICE = 0.1  # relative; nobody trains with an alpha that is wrong by this little


@dataclass(frozen=True, slots=True)
class Faults:
    """What was found, and what later steps need of it."""

    findings: tuple[Finding, ...]
    unit: bool = False  # the candidate normalises although it was not asked to
    scorable: bool = True  # one finite row a token


@dataclass(frozen=True, slots=True)
class _View:
    """One prompt as both arms see it: their rows that belong together, with the candidate's normalisation."""

    baseline: Runtime
    candidate: Runtime
    lab: Runtime | None  # an HF runtime like the baseline, whose adapter can be changed
    cache: StateCache
    ids: tuple[int, ...]  # what the candidate is asked
    context: tuple[int, ...]  # what the baseline must be asked to see the same tokens
    unit: bool
    shift: int = 0  # candidate's row i + shift is the baseline's row i

    def expected(self, how: ForwardOptions | AdapterEdit) -> Tensor:
        """Return the baseline's rows."""
        runtime = self.lab if isinstance(how, AdapterEdit) and self.lab is not None else self.baseline
        rows = self.cache.states(runtime, self.context, how)[: len(self.ids)]
        rows = rows[max(0, -self.shift) : len(rows) - max(0, self.shift)]
        return normalize(rows) if self.unit else rows

    def found(self, how: ForwardOptions) -> Tensor:
        """Return the candidate's rows that belong to them."""
        rows = self.cache.states(self.candidate, self.ids, how)
        return rows[max(0, self.shift) : len(rows) - max(0, -self.shift)]

    @property
    def quantized(self) -> bool:
        """Tell whether 4-bit rounding lies between the two."""
        return is_quantized(self.candidate.spec.model) and self.candidate.spec.model != self.baseline.spec.model

    def alone(self, token: int) -> _View:
        """Return the same for a prompt of one token."""
        return replace(self, ids=(token,), context=(token,), shift=0)


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
    view, more = _view(baseline, candidate, ids[:answered], cache, lab)
    base, usable = _base(view, candidate)
    found += [*more, *base]
    if candidate.options.lora and baseline.runtime.info.has_adapter and not _named(base, Cause.LORA_TWICE):
        found += _adapter(view, candidate, comparable=usable)
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


def _view(
    baseline: Arm, candidate: Arm, ids: Sequence[int], cache: StateCache, lab: Runtime | None
) -> tuple[_View, list[Finding]]:
    """Look at norms and at the rows' places."""
    found = []
    raw = cache.states(candidate.runtime, ids, ForwardOptions(lora=candidate.options.lora))
    norms = token_norms(raw)
    healthy = token_norms(cache.states(baseline.runtime, ids, ForwardOptions(lora=baseline.options.lora)))
    unit = _all_one(norms, candidate) and not _all_one(healthy, candidate)
    if unit:
        evidence = Evidence("mean norm of raw states", f"{float(norms.mean()):.3f}", f"{float(healthy.mean()):.2f}")
        found.append(Finding(Cause.NORMALIZATION, 1.0, (evidence,)))
    view = _View(baseline.runtime, candidate.runtime, lab, cache, tuple(ids), tuple(ids), unit)
    if float(row_errors(view.found(PLAIN), view.expected(PLAIN)).mean()) <= _rounding(view):
        return view, found
    alignment = find_alignment(candidate.runtime, ids, cache)
    if not alignment.is_right:
        view, finding = _moved(view, alignment)
        found.append(finding)
    return view, found


def _all_one(norms: Tensor, arm: Arm) -> bool:
    return bool(((norms - 1).abs() <= max(1e-3, 4 * _eps(arm.runtime.info.dtype))).all())


def _moved(view: _View, alignment: Alignment) -> tuple[_View, Finding]:
    """Undo a shift; a constant first row is another token in front, which the baseline is shown too if it can be told."""
    shift = alignment.shift
    if alignment.constant_first:
        first = view.cache.states(view.candidate, view.ids[:1], PLAIN)
        ways = (PLAIN, _RAW) if view.baseline.info.has_adapter else (PLAIN,)  # a merged base has LoRA in it
        errors = {
            token: min(float(row_errors(first, _first_state(view, token, how))) for how in ways)
            for token in range(4)  # special tokens have the lowest ids
        }
        token, error = min(errors.items(), key=lambda pair: pair[1])
        evidence = Evidence("first row", f"the same for every first token, nearest to that of id {token}", "its token's")
        context = (token, *view.ids)
        moved = replace(view, context=context) if error < _SAME else replace(view, shift=shift)
        return moved, Finding(Cause.EXTRA_BOS, 0.95, (evidence,))
    evidence = Evidence("row that moves first when a token is replaced", f"{shift:+d} from it", "the token's own")
    return replace(view, shift=shift), Finding(Cause.ROWS_SHIFTED, 0.95, (evidence,))


def _first_state(view: _View, token: int, how: ForwardOptions) -> Tensor:
    rows = view.cache.states(view.baseline, [token], how)
    return normalize(rows) if view.unit else rows


def _base(view: _View, candidate: Arm) -> tuple[list[Finding], _View | None]:
    """Compare bases without LoRA; return findings, and a view on which adapters can be compared."""
    same = _compare(view, PLAIN)
    if same.agrees:
        return [], view
    can_merge = view.baseline.info.has_adapter and view.candidate.info.has_adapter and candidate.options.lora
    if can_merge and (merged := _compare(view, _RAW)).agrees and merged.error < same.error / 2:
        return [_merged(merged.error)], None
    limit = f"at most {_rounding(view):.3f} from rounding"
    evidence = Evidence("relative error without LoRA", f"{same.error:.3f}", limit)
    if view.context == view.ids:
        # rope, window and mask do not matter to one token alone, weights do
        alone = [view.alone(token) for token in dict.fromkeys(view.ids[:2])]
        one = Evidence("a prompt of one token", "agrees with the baseline", "so do longer ones")
        mismatch = Finding(Cause.CONFIG_MISMATCH, 0.9, (evidence, one))
        if all(_compare(one_token, PLAIN).agrees for one_token in alone):
            return [mismatch], alone[0]
        if can_merge and all(_compare(one_token, _RAW).agrees for one_token in alone):
            return [mismatch, _merged(_compare(alone[0], _RAW).error)], None
    like = Evidence("likeness to the baseline's states", f"{same.like:.2f}", f"above {_SAME} (0 unrelated, 1 equal)")
    return [Finding(other_source(candidate.runtime.spec.model), 0.9, (evidence, like))], None


def _merged(error: float) -> Finding:
    observed = f"the baseline's with LoRA, relative error {error:.3f}"
    return Finding(Cause.LORA_TWICE, 0.95, (Evidence("states without LoRA", observed, "the baseline's without"),))


@dataclass(frozen=True, slots=True)
class _Comparison:
    error: float  # mean relative error of rows
    like: float  # mean likeness; 1 for one row alone
    agrees: bool


def _compare(view: _View, how: ForwardOptions) -> _Comparison:
    """Compare the candidate's states without LoRA with what the baseline gives."""
    found, expected = view.found(PLAIN), view.expected(how)
    error = float(row_errors(found, expected).mean())
    # one row has no other rows to be told from: its own error must do
    like = float(likeness(found, expected).mean()) if len(found) > 1 else 1 - error**2 / 2
    return _Comparison(error, like, error <= _rounding(view) or (view.quantized and like >= _SAME))


def _adapter(view: _View, candidate: Arm, *, comparable: _View | None) -> list[Finding]:
    effect = _effect(view.expected(_RAW), view.expected(PLAIN))
    if effect <= _rounding(view):
        return []  # the trained adapter does nothing that could be missed
    own = _effect(view.found(_RAW), view.found(PLAIN))
    if own < _NO_EFFECT * effect:
        evidence = Evidence("|H(on) - H(off)| / |H|", f"{own:.4f}", f"{effect:.3f}")
        return [Finding(Cause.LORA_NOT_APPLIED, 1.0, (evidence,))]
    if comparable is None:
        return []  # another base: nothing to compare with
    found, expected = comparable.found(_RAW), comparable.expected(_RAW)
    noise = float(row_errors(comparable.found(PLAIN), comparable.expected(PLAIN)).mean())
    tolerance = max(_rounding(view), _TWO_NOISES * noise)
    error = float(row_errors(found, expected).mean())
    if error <= tolerance:
        return []
    evidence = Evidence("relative error with LoRA", f"{error:.3f}", f"at most {tolerance:.3f}")
    groups: Callable[[], tuple[str, ...]] | None = getattr(view.lab, "adapter_groups", None)
    if groups is not None:
        explained = _explained(comparable, found, groups(), evidence, min(tolerance, error / _TWO_NOISES))
        if explained is not None:
            return [explained]
    if view.quantized and len(found) > 1 and float(likeness(found, expected).mean()) >= _SAME:
        # 4-bit rounding acts on the adapter's inputs too (up to twice its noise on random models): only files can tell an
        # adapter that does not fit the scales from that
        return []
    return [Finding(Cause.OTHER_ADAPTER, 0.9 if groups is not None else 0.5, (evidence,))]


def _explained(
    view: _View, found: Tensor, groups: Sequence[str], evidence: Evidence, tolerance: float
) -> Finding | None:
    """Name the change of the adapter that gives these states, if one does."""
    scale = fit_scale(found, view.expected)
    if scale.error <= tolerance:
        factor = scale.edit.scale
        cause = Cause.LORA_TWICE if abs(factor / 2 - 1) <= _TWICE else Cause.LORA_SCALE
        return Finding(cause, 0.95, (evidence, Evidence("adapter's scale that explains it", f"{factor:.2f}", "1")))
    missing = fit_missing(found, view.expected, groups, tolerance=tolerance)
    if missing.error <= tolerance:
        named = ", ".join(sorted(missing.edit.without))
        return Finding(Cause.LORA_PARTIAL, 0.95, (evidence, Evidence("modules without adapter", named, "none")))
    return None


def _effect(on: Tensor, off: Tensor) -> float:
    return float((on - off).norm() / off.norm())


def _rounding(view: _View) -> float:
    return max(_ENGINE, _WALK * max(_eps(view.baseline.info.dtype), _eps(view.candidate.info.dtype)))


def _eps(dtype: str) -> float:
    import torch

    return float(torch.finfo(getattr(torch, dtype)).eps)


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
