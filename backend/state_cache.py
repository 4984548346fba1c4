"""Hidden states already computed, so that looking again costs only the heads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import InputError
from backend.runtimes.adapter_edit import AdapterEdit
from backend.runtimes.base import ForwardOptions, Runtime

if TYPE_CHECKING:
    from torch import Tensor

# A server elsewhere can be started again with another configuration unnoticed; no vLLM is ready sooner than this.
REMOTE_S = 15.0
_Key = tuple[Runtime, tuple[int, ...], ForwardOptions | AdapterEdit]


@dataclass(frozen=True, slots=True)
class Kept:
    """One forward pass of one prompt."""

    states: Tensor  # [n_tokens, d_model] float32; shared, so not to be changed
    forward_ms: float  # what it took
    at: float  # when it was asked, on the cache's clock


class StateCache:
    """States per (live runtime, prompt, options); safe to share between threads.

    Keyed by the runtime itself and not by its spec: one that was loaded again may answer otherwise. Normalised states are
    an entry of their own, as the engine gave them: whether they are ``h / |h|`` is what people come here to see.

    Args:
        limit_bytes: least recently used states are dropped above this.
        clock: seconds; another one in tests.
    """

    def __init__(self, *, limit_bytes: int = 256 * 2**20, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit_bytes
        self._clock = clock
        self._bytes = 0
        self._kept: OrderedDict[_Key, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def states(self, runtime: Runtime, ids: Sequence[int], how: ForwardOptions | AdapterEdit) -> Tensor:
        """Return ``[n_tokens, d_model]`` float32, which the caller must not change; raises as `Runtime.forward` does."""
        return (self.find(runtime, ids, how) or self.ask(runtime, ids, how)).states

    def find(self, runtime: Runtime, ids: Sequence[int], how: ForwardOptions | AdapterEdit) -> Kept | None:
        """Return what is kept of this very question, or None."""
        key = (runtime, tuple(ids), how)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or (runtime.spec.urls and self._clock() - kept.at > REMOTE_S):
                return None
            self._kept.move_to_end(key)
            return kept

    def ask(self, runtime: Runtime, ids: Sequence[int], how: ForwardOptions | AdapterEdit) -> Kept:
        """Compute and keep; raises as `Runtime.forward` does."""
        key, at, started = (runtime, tuple(ids), how), self._clock(), time.perf_counter()
        states = _computed(runtime, key[1], how).float()
        made = Kept(states, (time.perf_counter() - started) * 1000, at)
        with self._lock:
            before = self._kept.pop(key, None)
            self._kept[key] = made
            self._bytes += states.nbytes - (before.states.nbytes if before else 0)
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].states.nbytes
        return made


def _computed(runtime: Runtime, ids: tuple[int, ...], how: ForwardOptions | AdapterEdit) -> Tensor:
    if isinstance(how, ForwardOptions):
        return runtime.forward([ids], how)[0]
    edited = getattr(runtime, "forward_edited", None)
    if edited is None:
        raise InputError(f"{runtime.spec.name} cannot change its adapter", remedy="Use an HF runtime.")
    states: Tensor = edited([ids], how)[0]
    return states
