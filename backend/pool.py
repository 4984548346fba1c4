"""Live runtimes, shared by every session: loaded in the background, restarted when they die, evicted for memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from backend.errors import BackendError, PrerequisiteError, RuntimeFault
from backend.memory import budget_bytes, estimate_bytes, estimate_load_s
from backend.runtimes.base import Runtime, RuntimeInfo, RuntimeSpec
from backend.runtimes.load import load_runtime

BACKOFF_S = (1.0, 4.0, 16.0)  # before the first, second and third restart
RESTART_WINDOW_S = 600.0


class State(StrEnum):
    """Where a runtime stands."""

    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """A runtime's state, for people to look at."""

    name: str
    state: State
    elapsed_s: float = 0.0  # since loading began, or since it waits
    waiting: bool = False  # for the load before it, or for the pause before a restart
    error: BackendError | None = None  # why it failed
    info: RuntimeInfo | None = None  # once it is ready
    log: Path | None = None  # of its server, if it has one
    memory_bytes: int = 0  # by estimate
    expected_s: float = 1.0  # that a load takes: the last one, or by estimate
    restarts: int = 0  # since it was loaded, in the last ten minutes


class _Entry:
    """One runtime of the pool; its fields are guarded by the pool's condition."""

    def __init__(self, spec: RuntimeSpec) -> None:
        self.spec = spec
        self.state = State.IDLE
        self.runtime: Runtime | None = None
        self.error: BackendError | None = None
        self.since = 0.0
        self.used = 0.0
        self.deaths: list[float] = []
        self.waiting = False
        self.load_s: float | None = None  # how long the last load took
        self.stop = threading.Event()

    def status(self) -> Status:
        loading = self.state is State.LOADING
        return Status(
            name=self.spec.name,
            state=self.state,
            elapsed_s=time.monotonic() - self.since if loading else 0.0,
            waiting=loading and self.waiting,
            error=self.error,
            info=self.runtime.info if self.runtime is not None else None,
            log=self.runtime.log if self.runtime is not None else getattr(self.error, "log", None),
            memory_bytes=estimate_bytes(self.spec),
            expected_s=self.load_s or estimate_load_s(self.spec),
            restarts=len(self.deaths),
        )


class Pool:
    """Spec to live runtime. All methods may be called from any thread; none but `get` and `close` blocks.

    Args:
        memory_budget_bytes: what all runtimes together may take, by estimate; default 70 % of what is free when the
            first one loads.
        load: makes a runtime; another one in tests.
    """

    def __init__(
        self,
        *,
        memory_budget_bytes: int | None = None,
        load: Callable[..., Runtime] = load_runtime,
    ) -> None:
        self._budget = memory_budget_bytes
        self._load = load
        self._entries: dict[RuntimeSpec, _Entry] = {}
        self._changed = threading.Condition()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")  # one load at a time
        self._closed = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self, spec: RuntimeSpec) -> Status:
        """Tell where a runtime stands."""
        with self._changed:
            return self._entry(spec).status()

    def request(self, spec: RuntimeSpec) -> Status:
        """Start loading a runtime that is idle; one that failed stays so until it is unloaded."""
        with self._changed:
            entry = self._entry(spec)
            if entry.state is State.IDLE and not self._closed:
                self._begin(entry)
            return entry.status()

    def get(self, spec: RuntimeSpec, *, timeout_s: float | None = None) -> Runtime:
        """Return the live runtime, loading it if need be.

        Raises:
            BackendError: why it could not be loaded.
            PrerequisiteError: it was not ready in time, or was unloaded meanwhile.
        """
        self.request(spec)
        with self._changed:
            entry = self._entry(spec)
            settled = self._changed.wait_for(lambda: entry.state is not State.LOADING, timeout_s)
            if not settled:
                raise PrerequisiteError(f"{spec.name} is still loading", remedy="Try again in a moment.")
            if entry.state is State.FAILED and entry.error is not None:
                raise entry.error
            if entry.runtime is None:
                raise PrerequisiteError(f"{spec.name} was unloaded", remedy="Load it again.")
            entry.used = time.monotonic()
            return entry.runtime

    def memory(self) -> tuple[int, int | None]:
        """Return what live and loading runtimes take by estimate, and the budget once one was loaded, in bytes."""
        with self._changed:
            held = [e.spec for e in self._entries.values() if e.state in (State.LOADING, State.READY)]
        return sum(map(estimate_bytes, held)), self._budget

    def unload(self, spec: RuntimeSpec) -> None:
        """Cancel a load, close a live runtime, or forget a failure."""
        with self._changed:
            entry = self._entry(spec)
            entry.stop.set()
            runtime, entry.runtime = entry.runtime, None
            entry.state, entry.error, entry.deaths = State.IDLE, None, []
            self._changed.notify_all()
        if runtime is not None:
            runtime.close()

    def close(self) -> None:
        """Close every runtime; the pool cannot be used afterwards."""
        with self._changed:
            self._closed = True
            specs = list(self._entries)
        for spec in specs:
            self.unload(spec)
        self._loader.shutdown(wait=True, cancel_futures=True)
        for spec in specs:  # one that was past cancelling
            self.unload(spec)

    def _entry(self, spec: RuntimeSpec) -> _Entry:
        return self._entries.setdefault(spec, _Entry(spec))

    def _begin(self, entry: _Entry, *, delay_s: float = 0.0) -> None:
        entry.state, entry.error, entry.since, entry.stop = State.LOADING, None, time.monotonic(), threading.Event()
        entry.waiting = True
        if not delay_s:
            self._submit(entry, entry.stop)
            return
        # a timer, so that a runtime that waits for its restart does not keep others from loading
        timer = threading.Timer(delay_s, self._submit, (entry, entry.stop))
        timer.daemon = True
        timer.start()

    def _submit(self, entry: _Entry, stop: threading.Event) -> None:
        if not self._closed and not stop.is_set():
            with suppress(RuntimeError):  # closed just now
                self._loader.submit(self._run, entry, stop)

    def _run(self, entry: _Entry, stop: threading.Event) -> None:
        if stop.is_set():
            return
        error: BackendError | None = None
        runtime: Runtime | None = None
        started = entry.since = time.monotonic()
        entry.waiting = False
        try:
            self._make_room(entry)
            runtime = self._load(entry.spec, stop=stop)
        except BackendError as expected:
            error = expected
        except Exception as unexpected:
            # a loader's own bug must not leave the lane loading for ever
            error = RuntimeFault(f"{entry.spec.name} could not be loaded", found=repr(unexpected)[:200])
        with self._changed:
            abandoned = stop.is_set()
            if not abandoned and isinstance(error, RuntimeFault) and entry.deaths:
                self._restart(entry, str(error), error.log)  # a restart that fails is one more death
            elif not abandoned:
                entry.runtime, entry.error = runtime, error
                entry.state = State.FAILED if runtime is None else State.READY
                entry.used = time.monotonic()
                entry.load_s = entry.used - started if runtime is not None else entry.load_s
                self._changed.notify_all()
        if runtime is not None and abandoned:
            runtime.close()
        elif runtime is not None:
            threading.Thread(target=self._watch, args=(entry, runtime, stop), daemon=True).start()

    def _watch(self, entry: _Entry, runtime: Runtime, stop: threading.Event) -> None:
        """Load again when a runtime is lost: after 1, 4 and 16 s, at most three times in ten minutes."""
        while not runtime.lost.wait(0.5):
            if stop.is_set():
                return
        with self._changed:
            if stop.is_set() or entry.runtime is not runtime:
                return
            entry.runtime, entry.state, entry.since = None, State.LOADING, time.monotonic()
        runtime.close()  # before the next one opens: both at once may not fit
        with self._changed:
            if stop.is_set():
                return
            self._restart(entry, runtime.lost_reason or "a process of its server ended", runtime.log)

    def _restart(self, entry: _Entry, reason: str, log: Path | None) -> None:
        """Begin again after the next pause, or give up; the caller holds the lock."""
        now = time.monotonic()
        entry.deaths = [at for at in entry.deaths if now - at < RESTART_WINDOW_S]
        if len(entry.deaths) < len(BACKOFF_S):
            delay = BACKOFF_S[len(entry.deaths)]
            entry.deaths.append(now)
            self._begin(entry, delay_s=delay)
        else:
            entry.state = State.FAILED
            entry.error = RuntimeFault(
                f"{entry.spec.name} was lost {len(entry.deaths) + 1} times in ten minutes and is not restarted any more",
                found=reason,
                remedy=f"Look at its log{f' {log}' if log else ''}, then unload and load it.",
                log=log,
            )
        self._changed.notify_all()

    def _make_room(self, entry: _Entry) -> None:
        """Close the least recently used runtimes until the next one fits; close before opening, never both at once."""
        if self._budget is None:
            self._budget = budget_bytes()  # not sooner: it imports torch
        need = estimate_bytes(entry.spec)
        if need > self._budget:
            raise PrerequisiteError(
                f"{entry.spec.name} needs more memory than the app may use",
                found=f"{need / 2**30:.1f} GiB needed, budget {self._budget / 2**30:.1f} GiB",
                remedy="Use a smaller model or dtype, a remote server, or a machine with more memory.",
            )
        while True:
            with self._changed:
                live = [e for e in self._entries.values() if e.runtime is not None]
                if sum(estimate_bytes(e.spec) for e in live) + need <= self._budget:
                    return
                oldest = min(live, key=lambda e: e.used)
            self.unload(oldest.spec)
