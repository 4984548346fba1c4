"""One prompt through one runtime: the call that page and command line share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.norms import NormStats, norm_stats, token_norms
from backend.probe import Decoding, Probe, SlotPrediction
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RuntimeRun:
    """What one runtime made of one prompt."""

    runtime: str
    options: ForwardOptions
    latency_ms: float  # forward pass and heads
    norms: NormStats
    token_norms: tuple[float, ...]  # one a prompt token
    slots: tuple[SlotPrediction, ...]


def run(
    probe: Probe,
    prompt: Prompt,
    runtime: Runtime,
    options: ForwardOptions,
    *,
    decoding: Decoding = Decoding.UPSTREAM,
) -> RuntimeRun:
    """Compute states, norms and predictions; raises `BackendError` as `Runtime.forward` and `Probe.predict` do."""
    started = time.perf_counter()
    states = runtime.forward([prompt.ids], options)[0]
    slots = probe.predict(prompt, states, decoding=decoding)
    latency_ms = (time.perf_counter() - started) * 1000
    return RuntimeRun(runtime.spec.name, options, latency_ms, norm_stats(states), _norms(states), slots)


def _norms(states: Tensor) -> tuple[float, ...]:
    return tuple(token_norms(states).tolist())
