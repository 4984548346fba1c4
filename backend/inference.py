"""One prompt through one runtime: the call that page and command line share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from backend.errors import BackendError, RuntimeTimeout
from backend.norms import NormStats, norm_stats, token_norms
from backend.pool import Pool, State, Status
from backend.probe import Decoding, Probe, SlotPrediction
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.state_cache import StateCache

if TYPE_CHECKING:
    from torch import Tensor


LANE_S = 20.0  # most that one lane may hold up the page


@dataclass(frozen=True, slots=True)
class RuntimeRun:
    """What one runtime made of one prompt."""

    runtime: str
    options: ForwardOptions
    latency_ms: float  # forward pass, be it an earlier one, and heads
    norms: NormStats
    token_norms: tuple[float, ...]  # one a prompt token
    slots: tuple[SlotPrediction, ...]
    kept: bool = False  # whether the states are those of an earlier forward pass


def run(
    probe: Probe,
    prompt: Prompt,
    runtime: Runtime,
    options: ForwardOptions,
    *,
    decoding: Decoding = Decoding.UPSTREAM,
    cache: StateCache | None = None,
) -> RuntimeRun:
    """Compute norms and predictions from states that the cache keeps, or else from new ones.

    Raises `BackendError` as `Runtime.forward` and `Probe.predict` do.
    """
    cache = cache or StateCache()
    found = cache.find(runtime, prompt.ids, options)
    asked = found or cache.ask(runtime, prompt.ids, options)
    started = time.perf_counter()
    slots = probe.predict(prompt, asked.states, decoding=decoding)
    latency_ms = asked.forward_ms + (time.perf_counter() - started) * 1000
    norms = (norm_stats(asked.states), _norms(asked.states))
    return RuntimeRun(runtime.spec.name, options, latency_ms, *norms, slots, kept=found is not None)


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
    cache: StateCache | None = None,
) -> tuple[Outcome, ...]:
    """Ask every runtime that is ready and start loading the others; never waits for a load, never raises.

    One after the other, so that latencies are each runtime's own; one that does not answer holds the others up for
    `LANE_S` at most.
    """
    outcomes = []
    for spec in specs:
        status = pool.request(spec)
        made, error = None, status.error
        if status.state is State.READY:
            try:
                runtime = pool.get(spec, timeout_s=0)
                made = _in_time(spec.name, partial(run, probe, prompt, runtime, options, decoding=decoding, cache=cache))
            except BackendError as failed:
                error = failed
        outcomes.append(Outcome(spec, status, made, error))
    return tuple(outcomes)


def _in_time(name: str, call: Callable[[], RuntimeRun]) -> RuntimeRun:
    """Wait for an answer; raises what the call raises, or `RuntimeTimeout` while it goes on by itself."""
    answers: Future[RuntimeRun] = Future()

    def work() -> None:
        try:
            answers.set_result(call())
        except BaseException as error:
            answers.set_exception(error)

    threading.Thread(target=work, name=f"lane-{name}", daemon=True).start()
    try:
        return answers.result(timeout=LANE_S)
    except TimeoutError as error:
        raise RuntimeTimeout(
            f"{name} has not answered within {LANE_S:g} s",
            remedy="It is busy or hangs; if this app started it, it is watched and restarted. Try again in a minute.",
        ) from error


def _norms(states: Tensor) -> tuple[float, ...]:
    return tuple(token_norms(states).tolist())
