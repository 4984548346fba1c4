"""Health checks of a runtime against a baseline: each a value with what was observed, what was expected and what to do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.agreement import lora_effect
from backend.check_files import file_checks
from backend.check_types import Check
from backend.errors import BackendError
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.canary import TOLERANCE

if TYPE_CHECKING:
    from torch import Tensor

_RAW, _PLAIN = ForwardOptions(), ForwardOptions(lora=False)
_NORM = ForwardOptions(normalize=True)
_OFF_NORM = 0.05  # raw norms within this of 1 everywhere mean that normalisation was left on
_UNIT = 1e-3  # how far a normalised norm may be from 1
_LORA_EFFECT = 1e-3  # |H(on) - H(off)| relative to |H|: below this the adapter does nothing
_SLOPE = (0.9, 1.1)
# cosine per token against the baseline, mean over tokens: 16-bit engines, and 4-bit weights
_PARITY, _PARITY_4BIT = 0.999, 0.9
_FINGERPRINT, _FINGERPRINT_4BIT = 0.99, 0.8


@dataclass(frozen=True, slots=True)
class _States:
    """What one runtime made of the check prompts, all tokens in one matrix ``[n_tokens, d_model]``, float32."""

    raw: Tensor
    normalized: Tensor
    plain: Tensor | None  # without the adapter; None where there is none


def check_runtime(
    runtime: Runtime,
    baseline: Runtime | None,
    ids: Sequence[Sequence[int]],
    *,
    d_heads: int,
    base_model: str,
    trained: str | None = None,
) -> list[Check]:
    """Run every check that applies.

    Args:
        runtime: what is judged.
        baseline: the runtime it must agree with; None leaves comparisons out.
        ids: prompts to judge it on; three or more of different lengths.
        d_heads: hidden size of the probe's heads.
        base_model: the bundle's plain base.
        trained: the bundle's adapter as it was trained on that base.

    A runtime that fails to answer gives a failed check, never an exception.
    """
    checks = list(file_checks(runtime.spec, base_model, trained=trained))
    checks.append(
        Check(
            "head size",
            runtime.info.d_model == d_heads,
            observed=str(runtime.info.d_model),
            expected=str(d_heads),
            remedy="The heads were trained on another base model.",
        )
    )
    try:
        mine = _states(runtime, ids)
    except BackendError as error:
        return [*checks, Check("token contract", False, str(error), "one finite row of states per token", error.remedy)]
    n_tokens = sum(map(len, ids))
    checks.append(Check("token contract", True, f"{n_tokens} rows, all finite", f"{n_tokens} rows, all finite"))
    checks += _normalization(mine)
    if mine.plain is not None:
        checks.append(_lora_applied(mine.raw, mine.plain))
    four_bit = runtime.spec.model != base_model
    checks += [_canary(runtime), _noise_floor(runtime, ids, mine)]
    if baseline is not None and baseline is not runtime:
        checks += _against(mine, baseline, ids, four_bit=four_bit)
    return checks


def _states(runtime: Runtime, ids: Sequence[Sequence[int]]) -> _States:
    import torch

    def rows(options: ForwardOptions) -> Tensor:
        return torch.cat([state.float() for state in runtime.forward(ids, options)])

    adapter = runtime.info.has_adapter
    return _States(
        raw=rows(_RAW if adapter else _PLAIN),
        normalized=rows(_NORM if adapter else ForwardOptions(normalize=True, lora=False)),
        plain=rows(_PLAIN) if adapter else None,
    )


def _normalization(mine: _States) -> Iterator[Check]:
    from torch.nn.functional import normalize

    norms = mine.raw.norm(dim=-1)
    yield Check(
        "normalisation off when off",
        bool(((norms - 1).abs() > _OFF_NORM).any()),
        observed=f"mean norm {float(norms.mean()):.3f}",
        expected="norms that are not all 1",
        remedy="Serve with the pooler configuration that `python -m backend serve-command` prints.",
    )
    units = mine.normalized.norm(dim=-1)
    yield Check(
        "normalisation on when on",
        float((units - 1).abs().max()) <= _UNIT,
        observed=f"norms {float(units.min()):.4f} to {float(units.max()):.4f}",
        expected=f"1 within {_UNIT:g}",
        remedy="The server ignores the request's normalisation; check its version.",
    )
    difference = float((mine.normalized - normalize(mine.raw, dim=-1)).abs().max())
    yield Check(
        "normalised equals h / |h|",
        difference <= 5e-3,
        observed=f"largest difference {difference:.1e}",
        expected="at most 5e-3",
        remedy="Normalised and raw states come from different weights or a different adapter.",
    )


def _lora_applied(on: Tensor, off: Tensor) -> Check:
    effect = float((on - off).norm() / off.norm())
    return Check(
        "LoRA applied",
        effect > _LORA_EFFECT,
        observed=f"|H(on) - H(off)| / |H| = {effect:.4f}",
        expected=f"above {_LORA_EFFECT:g}",
        remedy="The engine answers the same with and without the adapter: check its name, its keys' prefix and its path.",
    )


def _canary(runtime: Runtime) -> Check:
    """A known request must get the answer it got when this runtime first met it."""
    name, expected = "canary", f"at most {TOLERANCE:g} of |h| from its first answer"
    try:
        drift = runtime.canary_drift()
    except BackendError as error:
        return Check(name, False, str(error), expected, error.remedy)
    return Check(
        name,
        drift <= TOLERANCE,
        observed=f"{drift:.1e} of |h| from its first answer",
        expected=expected,
        remedy="The runtime computes something else than it did: unload it, then load it again.",
    )


def _noise_floor(runtime: Runtime, ids: Sequence[Sequence[int]], mine: _States) -> Check:
    """One prompt at a time and in another order must give what the batch gave, but for rounding."""
    import torch

    order = list(range(len(ids)))
    random.Random(0).shuffle(order)
    options = _RAW if runtime.info.has_adapter else _PLAIN
    alone = {i: runtime.forward([ids[i]], options)[0].float() for i in order}
    again = torch.cat([alone[i] for i in range(len(ids))])
    floor = float((again - mine.raw).norm() / mine.raw.norm())
    return Check(
        "noise floor",
        floor <= 0.02,
        observed=f"{floor:.1e} of |H| between batches of 1 and of {len(ids)}",
        expected="at most 2e-2",
        remedy="Answers depend on what else is in the batch: rows may be mixed up.",
    )


def _against(mine: _States, baseline: Runtime, ids: Sequence[Sequence[int]], *, four_bit: bool) -> Iterator[Check]:
    from torch.nn.functional import cosine_similarity

    reference = _states(baseline, ids)
    name = baseline.spec.name
    pair = (mine.plain, reference.plain) if mine.plain is not None and reference.plain is not None else None
    ours, theirs = pair or (mine.raw, reference.raw)
    cosine = float(cosine_similarity(ours, theirs, dim=-1).mean())
    floor = _PARITY_4BIT if four_bit else _PARITY
    yield Check(
        "base parity",
        cosine >= floor,
        observed=f"mean cosine {cosine:.5f} with {name}, LoRA off",
        expected=f"at least {floor}",
        remedy="The runtime serves another base model, or other weights.",
    )
    if pair is None or reference.plain is None or mine.plain is None:
        return
    effect = lora_effect(mine.raw, mine.plain, baseline_on=reference.raw, baseline_off=reference.plain)
    direction, slope = effect.cosine, effect.slope
    floor = _FINGERPRINT_4BIT if four_bit else _FINGERPRINT
    yield Check(
        "LoRA fingerprint",
        direction >= floor and (_SLOPE[0] <= slope <= _SLOPE[1] or (four_bit and slope >= 0.7)),
        observed=f"cosine {direction:.4f}, slope {slope:.3f} of the adapter's effect on {name}'s",
        expected=f"cosine at least {floor}, slope {_SLOPE[0]} to {_SLOPE[1]}",
        remedy=_lora_cause(direction, slope),
    )


def _lora_cause(direction: float, slope: float) -> str:
    if abs(slope) < 0.05:
        return "The adapter is not applied: check its name on the server and the prefix of its keys."
    if direction > 0.9:
        return "The right adapter with a wrong scale: compare lora_alpha and r, or whether it is applied twice."
    return "Only a part of the adapter is loaded, or another adapter: compare the files and their keys."
