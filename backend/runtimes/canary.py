"""A request with a known answer, asked by itself whenever a server has been silent for a while.

A hung engine leaves `/health` at 200 and its sockets open, and a server that computes something else than it did looks just
as well: only an answer tells.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from backend.errors import BackendError, RuntimeTimeout

if TYPE_CHECKING:
    from torch import Tensor

CANARY_IDS = (1, 2, 3, 4, 5, 6, 7)
EVERY_S = 15.0
DEADLINE_S = 20.0  # twice this and EVERY_S are below the minute in which a hang must be noticed
COMPUTING = 0.05  # of one core: what a server with requests under way uses at least, on a machine that does much else too
TOLERANCE = 0.02  # relative; batches of another size round differently in FP16, another model is worlds apart


def relative_difference(states: Tensor, known: Tensor) -> float:
    """Return ``|states - known| / |known|`` of two ``[n_tokens, d_model]``; infinite where the shapes differ."""
    if states.shape != known.shape:
        return float("inf")
    return float((states.float() - known.float()).norm() / known.float().norm().clamp_min(1e-12))


class Watched(Protocol):
    """The processes of a server."""

    def cpu_seconds(self) -> float:
        """Return the processor time that they have used."""

    def is_stopped(self) -> bool:
        """Tell whether one of them is stopped, as by SIGSTOP."""


def overloaded() -> bool:
    """Tell whether the machine has so much else to do that a missing answer says nothing; requests keep their deadline."""
    return os.getloadavg()[0] > 4 * (os.cpu_count() or 1)


class Canary:
    """Watches one server from a thread of its own.

    Args:
        ask: sends the known request with a deadline in seconds and returns its states; raises `BackendError`.
        lost: called once, from the thread, with the reason, when the server hangs or answers otherwise.
        server: its processes; one that computes is not hung, however long it takes.
        every_s: silence after which to ask.
        deadline_s: how long each of two attempts may take.
    """

    def __init__(
        self,
        ask: Callable[[float], Tensor],
        lost: Callable[[str], None],
        *,
        server: Watched,
        every_s: float = EVERY_S,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._ask, self._lost, self._server = ask, lost, server
        self._every_s, self._deadline_s = every_s, deadline_s
        self._known = ask(deadline_s * 6)  # the first request compiles and warms up
        self._lock = threading.Lock()
        self._under_way, self._heard = 0, time.monotonic()
        self._closing = threading.Event()
        threading.Thread(target=self._watch, name="canary", daemon=True).start()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request under way; one that is answered proves the server alive."""
        with self._lock:
            self._under_way += 1
        try:
            yield
            self._heard = time.monotonic()
        finally:
            with self._lock:
                self._under_way -= 1

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(max(0.0, self._heard + self._every_s - time.monotonic())):
            if (
                time.monotonic() - self._heard >= self._every_s
                and (reason := self._trouble())
                and not self._closing.is_set()
            ):
                self._lost(reason)
                return

    def _trouble(self) -> str:
        asked, cpu_s = time.monotonic(), self._server.cpu_seconds()
        deadline_s = 2 * self._deadline_s  # in all
        try:
            try:
                states = self._ask(self._deadline_s)
            except RuntimeTimeout:
                if self._server.is_stopped():
                    raise
                # once more: behind queued requests, or on a machine that does much else, it takes longer
                states = self._ask(self._deadline_s)
        except RuntimeTimeout:
            computing = self._under_way > 0 and self._server.cpu_seconds() - cpu_s > COMPUTING * deadline_s
            if self._heard > asked or (not self._server.is_stopped() and (computing or overloaded())):
                return ""
            return f"no answer to a request of {len(CANARY_IDS)} tokens within {time.monotonic() - asked:.0f} s"
        except BackendError as error:
            return f"a known request failed: {error.what}"
        self._heard = time.monotonic()
        difference = relative_difference(states, self._known)
        if difference <= TOLERANCE:
            return ""
        return f"a known request got another answer than at first, relative difference {difference:.2g}"
