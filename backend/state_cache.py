"""Hidden states already computed, so that looking again costs only the heads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.errors import InputError
from backend.runtimes.adapter_edit import AdapterEdit
from backend.runtimes.base import ForwardOptions, Runtime

if TYPE_CHECKING:
    from torch import Tensor

_Key = tuple[Runtime, tuple[int, ...], ForwardOptions | AdapterEdit]


class StateCache:
    """Float32 states per (live runtime, prompt, options); safe to share between threads.

    Keyed by the runtime itself and not by its spec: one that was loaded again may answer otherwise.

    Args:
        limit_bytes: least recently used states are dropped above this.
    """

    def __init__(self, *, limit_bytes: int = 256 * 2**20) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[_Key, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def states(self, runtime: Runtime, ids: Sequence[int], how: ForwardOptions | AdapterEdit) -> Tensor:
        """Return ``[n_tokens, d_model]`` float32, which the caller must not change; raises as `Runtime.forward` does."""
        key = (runtime, tuple(ids), how)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _computed(runtime, key[1], how).float()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += made.nbytes
                while self._bytes > self._limit and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def _computed(runtime: Runtime, ids: tuple[int, ...], how: ForwardOptions | AdapterEdit) -> Tensor:
    if isinstance(how, ForwardOptions):
        return runtime.forward([ids], how)[0]
    edited = getattr(runtime, "forward_edited", None)
    if edited is None:
        raise InputError(f"{runtime.spec.name} cannot change its adapter", remedy="Use an HF runtime.")
    states: Tensor = edited([ids], how)[0]
    return states
