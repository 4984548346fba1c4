"""One prompt through one runtime: the call that page and command line share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import BackendError
from backend.norms import NormStats, norm_stats, token_norms
from backend.pool import Pool, State, Status
from backend.probe import Decoding, Probe, SlotPrediction
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one lane shows: an answer, an error, or that the runtime still loads."""

    spec: RuntimeSpec
    status: Status
    run: RuntimeRun | None = None
    error: BackendError | None = None


def run_on_all(
    pool: Pool,
    specs: Sequence[RuntimeSpec],
    probe: Probe,
    prompt: Prompt,
    options: ForwardOptions,
    *,
    decoding: Decoding = Decoding.UPSTREAM,
) -> tuple[Outcome, ...]:
    """Ask every runtime that is ready and start loading the others; never waits for a load, never raises."""
    outcomes = []
    for spec in specs:
        status = pool.request(spec)
        made, error = None, status.error
        if status.state is State.READY:
            try:
                made = run(probe, prompt, pool.get(spec, timeout_s=0), options, decoding=decoding)
            except BackendError as failed:
                error = failed
        outcomes.append(Outcome(spec, status, made, error))
    return tuple(outcomes)


def _norms(states: Tensor) -> tuple[float, ...]:
    return tuple(token_norms(states).tolist())
