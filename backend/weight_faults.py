"""What is wrong with base and adapter, from states: first the base without LoRA, so that no adapter can blur it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.adapter_fit import fit_missing, fit_scale
from backend.agreement import likeness, row_errors
from backend.arms import PLAIN, Arm
from backend.diagnosis_types import Cause, Evidence, Finding
from backend.file_faults import other_source
from backend.runtimes.base import ForwardOptions
from backend.state_view import RAW, SAME, View, rounding

if TYPE_CHECKING:
    from torch import Tensor

# The adapter's part carries the base's noise once more, independent of it, if it is right; more is a fault of its own.
_TWO_NOISES = 2**0.5
_NO_EFFECT = 0.05  # of the adapter's effect on the baseline
_TWICE = 0.1  # relative; nobody trains with an alpha that is wrong by this little


def base_faults(view: View, candidate: Arm) -> tuple[list[Finding], View | None]:
    """Compare bases without LoRA; return findings, and a view on which adapters can be compared."""
    same = _compare(view, PLAIN)
    if same.agrees:
        return [], view
    can_merge = view.baseline.info.has_adapter and view.candidate.info.has_adapter and candidate.options.lora
    if can_merge and (merged := _compare(view, RAW)).agrees and merged.error < same.error / 2:
        return [_merged(merged.error)], None
    limit = f"at most {rounding(view):.3f} from rounding"
    evidence = Evidence("relative error without LoRA", f"{same.error:.3f}", limit)
    if view.context == view.ids:
        # rope, window and mask do not matter to one token alone, weights do
        alone = [view.alone(token) for token in dict.fromkeys(view.ids[:2])]
        one = Evidence("a prompt of one token", "agrees with the baseline", "so do longer ones")
        mismatch = Finding(Cause.CONFIG_MISMATCH, 0.9, (evidence, one))
        if all(_compare(one_token, PLAIN).agrees for one_token in alone):
            return [mismatch], alone[0]
        if can_merge and all(_compare(one_token, RAW).agrees for one_token in alone):
            return [mismatch, _merged(_compare(alone[0], RAW).error)], None
    like = Evidence("likeness to the baseline's states", f"{same.like:.2f}", f"above {SAME} (0 unrelated, 1 equal)")
    return [Finding(other_source(candidate.runtime.spec.model), 0.9, (evidence, like))], None


def _merged(error: float) -> Finding:
    observed = f"the baseline's with LoRA, relative error {error:.3f}"
    return Finding(Cause.LORA_TWICE, 0.95, (Evidence("states without LoRA", observed, "the baseline's without"),))


@dataclass(frozen=True, slots=True)
class _Comparison:
    error: float  # mean relative error of rows
    like: float  # mean likeness; 1 for one row alone
    agrees: bool


def _compare(view: View, how: ForwardOptions) -> _Comparison:
    """Compare the candidate's states without LoRA with what the baseline gives."""
    found, expected = view.found(PLAIN), view.expected(how)
    error = float(row_errors(found, expected).mean())
    # one row has no other rows to be told from: its own error must do
    like = float(likeness(found, expected).mean()) if len(found) > 1 else 1 - error**2 / 2
    return _Comparison(error, like, error <= rounding(view) or (view.quantized and like >= SAME))


def adapter_faults(view: View, candidate: Arm, *, comparable: View | None) -> list[Finding]:
    """Return what is wrong with the candidate's adapter, against a baseline whose base agrees where there is one."""
    effect = _effect(view.expected(RAW), view.expected(PLAIN))
    if effect <= rounding(view):
        return []  # the trained adapter does nothing that could be missed
    own = _effect(view.found(RAW), view.found(PLAIN))
    if own < _NO_EFFECT * effect:
        evidence = Evidence("|H(on) - H(off)| / |H|", f"{own:.4f}", f"{effect:.3f}")
        return [Finding(Cause.LORA_NOT_APPLIED, 1.0, (evidence,))]
    if comparable is None:
        return []  # another base: nothing to compare with
    found, expected = comparable.found(RAW), comparable.expected(RAW)
    noise = float(row_errors(comparable.found(PLAIN), comparable.expected(PLAIN)).mean())
    tolerance = max(rounding(view), _TWO_NOISES * noise)
    error = float(row_errors(found, expected).mean())
    if error <= tolerance:
        return []
    evidence = Evidence("relative error with LoRA", f"{error:.3f}", f"at most {tolerance:.3f}")
    groups: Callable[[], tuple[str, ...]] | None = getattr(view.lab, "adapter_groups", None)
    if groups is not None:
        explained = _explained(comparable, found, groups(), evidence, min(tolerance, error / _TWO_NOISES))
        if explained is not None:
            return [explained]
    if view.quantized and len(found) > 1 and float(likeness(found, expected).mean()) >= SAME:
        # 4-bit rounding acts on the adapter's inputs too (up to twice its noise on random models): only files can tell an
        # adapter that does not fit the scales from that
        return []
    return [Finding(Cause.OTHER_ADAPTER, 0.9 if groups is not None else 0.5, (evidence,))]


def _explained(view: View, found: Tensor, groups: Sequence[str], evidence: Evidence, tolerance: float) -> Finding | None:
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
