"""A healthy runtime whose answers pass through one fault, as broken deployments give them. Faults can be stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.diagnosis_types import Cause
from backend.norms import normalize
from backend.runtimes.adapter_edit import AdapterEdit
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.hf import HFRuntime

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


def lora_edited(edit: AdapterEdit) -> Fault:
    """Serve the adapter with another alpha, or without some of its modules, for real."""

    def changed(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        if not isinstance(inner, HFRuntime):
            raise TypeError("only an HF runtime lets its adapter be changed")
        states = inner.forward_edited(ids, edit) if options.lora else inner.forward(ids, ForwardOptions(lora=False))
        return [normalize(rows) if options.normalize else rows for rows in states]

    return changed


def lora_times(factor: float) -> Fault:
    """Scale the adapter, as a wrong alpha or a second application does."""
    return lora_edited(AdapterEdit(scale=factor))


def lora_on_first_layer_only(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Lose the adapter of all layers but the first, as a wrapped key prefix in a part of the file does."""
    assert isinstance(inner, HFRuntime)
    layers = [group for group in inner.adapter_groups() if group.startswith("layers.")]
    return lora_edited(AdapterEdit(without=frozenset(layers[1:])))(inner, ids, options)


def lora_on_values_only(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Lose the adapter of every kind of module but v_proj and o_proj."""
    assert isinstance(inner, HFRuntime)
    kinds = {group for group in inner.adapter_groups() if not group.startswith("layers.")}
    return lora_edited(AdapterEdit(without=frozenset(kinds - {"v_proj", "o_proj"})))(inner, ids, options)


def merged_and_applied(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Serve a base that has the adapter merged in already."""
    assert isinstance(inner, HFRuntime)
    states = inner.forward_edited(ids, AdapterEdit(scale=2.0 if options.lora else 1.0))
    return [normalize(rows) if options.normalize else rows for rows in states]


def one_token_dropped(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Lose the first row."""
    return [rows[1:] for rows in inner.forward(ids, options)]


def rows_shifted(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Give every token the state of the one before."""
    return [torch.cat([rows[:1], rows[:-1]]) for rows in inner.forward(ids, options)]


def rows_shifted_back(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Give every token the state of the next."""
    return [torch.cat([rows[1:], rows[-1:]]) for rows in inner.forward(ids, options)]


def extra_bos(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Put a BOS (id 0 of the demo and of the random bundles) in front, and cut the answer to length."""
    return [rows[:-1] for rows in inner.forward([[0, *row] for row in ids], options)]


def truncated(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Cut prompts to 12 tokens."""
    return inner.forward([row[:12] for row in ids], options)


def not_a_number(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
    """Overflow."""
    return [torch.full_like(rows, float("nan")) for rows in inner.forward(ids, options)]


def in_a_batch(others: Sequence[Sequence[int]]) -> Fault:
    """No fault: every prompt shares its batch with others."""

    def batched(inner: Runtime, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        return inner.forward([*others, *ids], options)[len(others) :]

    return batched


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and the cause that names it. Two of one family would change the same thing and cannot come together."""

    name: str
    family: str  # adapter, rows or norm: the order in which they are stacked
    fault: Fault
    cause: Cause
    hides: bool = False  # nothing else can be seen through it


CASES = (
    Case("LoRA dropped", "adapter", no_lora, Cause.LORA_NOT_APPLIED),
    Case("LoRA times 0.5", "adapter", lora_times(0.5), Cause.LORA_SCALE),
    Case("LoRA times 2", "adapter", lora_times(2), Cause.LORA_TWICE),
    Case("LoRA merged and applied", "adapter", merged_and_applied, Cause.LORA_TWICE),
    Case("LoRA on the first layer only", "adapter", lora_on_first_layer_only, Cause.LORA_PARTIAL),
    Case("LoRA on v and o only", "adapter", lora_on_values_only, Cause.LORA_PARTIAL),
    Case("rows shifted by one", "rows", rows_shifted, Cause.ROWS_SHIFTED),
    Case("rows shifted back", "rows", rows_shifted_back, Cause.ROWS_SHIFTED),
    Case("BOS in front", "rows", extra_bos, Cause.EXTRA_BOS),
    Case("prompt truncated", "rows", truncated, Cause.TRUNCATED),
    Case("one token dropped", "rows", one_token_dropped, Cause.TOKEN_MISMATCH, hides=True),
    Case("NaN", "rows", not_a_number, Cause.NON_FINITE, hides=True),
    Case("normalisation left on", "norm", always_normalized, Cause.NORMALIZATION),
)
