"""One prompt as two arms see it: rows that belong together, and the candidate's normalisation undone or shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.agreement import row_errors
from backend.arms import PLAIN, Arm
from backend.diagnosis_types import Cause, Evidence, Finding
from backend.file_faults import is_quantized
from backend.norms import normalize, token_norms
from backend.runtimes.adapter_edit import AdapterEdit
from backend.runtimes.base import ForwardOptions, Runtime
from backend.state_cache import StateCache
from backend.token_alignment import Alignment, find_alignment

if TYPE_CHECKING:
    from torch import Tensor

RAW = ForwardOptions()
# A state is that of its own token if it is nearer to it than to unrelated ones: half way from unrelated (0) to equal (1).
SAME = 0.5
# Rounding of a deep model: eps of the coarser dtype times a random walk over some 170 roundings on the way to a state.
# Seen: BF16 0.009 on the demo and 0.007 on random models (this allows 0.10), FP16 0.001 (0.013).
_WALK = 13.0
_ENGINE = 1e-3  # kernels that add in another order differ by this even in float32


@dataclass(frozen=True, slots=True)
class View:
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
        """Return the baseline's rows, ``[n_tokens, d_model]``; raises as `Runtime.forward`."""
        runtime = self.lab if isinstance(how, AdapterEdit) and self.lab is not None else self.baseline
        rows = self.cache.states(runtime, self.context, how)[: len(self.ids)]
        rows = rows[max(0, -self.shift) : len(rows) - max(0, self.shift)]
        return normalize(rows) if self.unit else rows

    def found(self, how: ForwardOptions) -> Tensor:
        """Return the candidate's rows that belong to them, ``[n_tokens, d_model]``; raises as `Runtime.forward`."""
        rows = self.cache.states(self.candidate, self.ids, how)
        return rows[max(0, self.shift) : len(rows) - max(0, -self.shift)]

    @property
    def quantized(self) -> bool:
        """Tell whether 4-bit rounding lies between the two."""
        return is_quantized(self.candidate.spec.model) and self.candidate.spec.model != self.baseline.spec.model

    def alone(self, token: int) -> View:
        """Return the same for a prompt of one token."""
        return replace(self, ids=(token,), context=(token,), shift=0)


def view_of(
    baseline: Arm, candidate: Arm, ids: Sequence[int], cache: StateCache, lab: Runtime | None
) -> tuple[View, list[Finding]]:
    """Look at norms and at the rows' places."""
    found = []
    raw = cache.states(candidate.runtime, ids, ForwardOptions(lora=candidate.options.lora))
    norms = token_norms(raw)
    healthy = token_norms(cache.states(baseline.runtime, ids, ForwardOptions(lora=baseline.options.lora)))
    unit = _all_one(norms, candidate) and not _all_one(healthy, candidate)
    if unit:
        evidence = Evidence("mean norm of raw states", f"{float(norms.mean()):.3f}", f"{float(healthy.mean()):.2f}")
        found.append(Finding(Cause.NORMALIZATION, 1.0, (evidence,)))
    view = View(baseline.runtime, candidate.runtime, lab, cache, tuple(ids), tuple(ids), unit)
    if float(row_errors(view.found(PLAIN), view.expected(PLAIN)).mean()) <= rounding(view):
        return view, found
    alignment = find_alignment(candidate.runtime, ids, cache)
    if not alignment.is_right:
        view, finding = _moved(view, alignment)
        found.append(finding)
    return view, found


def _all_one(norms: Tensor, arm: Arm) -> bool:
    return bool(((norms - 1).abs() <= max(1e-3, 4 * eps(arm.runtime.info.dtype))).all())


def _moved(view: View, alignment: Alignment) -> tuple[View, Finding]:
    """Undo a shift; a constant first row is another token in front, which the baseline is shown too if it can be told."""
    shift = alignment.shift
    if alignment.constant_first:
        first = view.cache.states(view.candidate, view.ids[:1], PLAIN)
        ways = (PLAIN, RAW) if view.baseline.info.has_adapter else (PLAIN,)  # a merged base has LoRA in it
        errors = {
            token: min(float(row_errors(first, _first_state(view, token, how))) for how in ways)
            for token in range(4)  # special tokens have the lowest ids
        }
        token, error = min(errors.items(), key=lambda pair: pair[1])
        evidence = Evidence("first row", f"the same for every first token, nearest to that of id {token}", "its token's")
        context = (token, *view.ids)
        moved = replace(view, context=context) if error < SAME else replace(view, shift=shift)
        return moved, Finding(Cause.EXTRA_BOS, 0.95, (evidence,))
    evidence = Evidence("row that moves first when a token is replaced", f"{shift:+d} from it", "the token's own")
    return replace(view, shift=shift), Finding(Cause.ROWS_SHIFTED, 0.95, (evidence,))


def _first_state(view: View, token: int, how: ForwardOptions) -> Tensor:
    rows = view.cache.states(view.baseline, [token], how)
    return normalize(rows) if view.unit else rows


def rounding(view: View) -> float:
    """Return the relative error of a state that rounding alone explains, in the coarser of both dtypes."""
    return max(_ENGINE, _WALK * max(eps(view.baseline.info.dtype), eps(view.candidate.info.dtype)))


def eps(dtype: str) -> float:
    """Return the machine epsilon of a dtype by its name."""
    import torch

    return float(torch.finfo(getattr(torch, dtype)).eps)
