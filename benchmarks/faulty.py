"""A healthy runtime whose answers pass through one fault, as broken deployments give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.diagnosis_types import Cause
from backend.norms import normalize
from backend.runtimes.base import ForwardOptions, Runtime

Fault = Callable[[Runtime, Sequence[Sequence[int]], ForwardOptions], list[Tensor]]


class Faulty(Runtime):
    """Wraps a runtime; toggles reach the fault, which decides what to make of them."""

    def __init__(self, inner: Runtime, fault: Fault) -> None:
        super().__init__(inner.spec, inner.info)
        self._inner, self._fault = inner, fault

    def _forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        return self._fault(self._inner, ids, options)

    def _close(self) -> None:
        pass  # the inner runtime belongs to whoever made it


def always_normalized(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Normalise whatever was asked."""
    return inner.forward(ids, replace(options, normalize=True))


def no_lora(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Drop the adapter."""
    return inner.forward(ids, replace(options, lora=False))


def lora_times(factor: float) -> Fault:
    """Scale the adapter's effect, as a wrong alpha or a second merge does to first order."""

    def scaled(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        off = inner.forward(ids, ForwardOptions(lora=False))
        on = inner.forward(ids, ForwardOptions(lora=options.lora))
        states = [b.float() + factor * (a.float() - b.float()) for a, b in zip(on, off, strict=True)]
        return [normalize(rows) if options.normalize else rows for rows in states]

    return scaled


def one_token_dropped(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Lose the first row."""
    return [rows[1:] for rows in inner.forward(ids, options)]


def rows_shifted(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Answer as if a BOS stood in front and the last token were cut off."""
    return [torch.cat([rows[:1], rows[:-1]]) for rows in inner.forward(ids, options)]


def not_a_number(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Overflow."""
    return [torch.full_like(rows, float("nan")) for rows in inner.forward(ids, options)]


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and the causes that name it rightly."""

    name: str
    fault: Fault
    causes: frozenset[Cause]


CASES = (
    Case("normalisation left on", always_normalized, frozenset({Cause.NORMALIZATION})),
    Case("LoRA dropped", no_lora, frozenset({Cause.LORA_NOT_APPLIED})),
    Case("LoRA times 2", lora_times(2), frozenset({Cause.LORA_SCALE})),
    Case("LoRA times 0.5", lora_times(0.5), frozenset({Cause.LORA_SCALE})),
    Case("one token dropped", one_token_dropped, frozenset({Cause.TOKEN_MISMATCH})),
    Case("rows shifted by one", rows_shifted, frozenset({Cause.ROWS_SHIFTED})),
    Case("NaN", not_a_number, frozenset({Cause.NON_FINITE})),
)
