"""The pool with runtimes that load in no time: states, restarts, eviction."""

import threading
import time
from pathlib import Path

import pytest
import torch

from backend import pool as pool_module
from backend.errors import PrerequisiteError, RuntimeFault
from backend.pool import BACKOFF_S, RESTART_WINDOW_S, Pool, State
from backend.runtimes.base import Engine, ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec

SPEC = RuntimeSpec("fake", Engine.HF, "base", "float32")


class Fake(Runtime):
    """Answers with ones until it is closed."""

    def __init__(self, spec):
        super().__init__(spec, RuntimeInfo("cpu", "float32", 4, 64, has_adapter=False))
        self.log = Path("fake.log")

    def _forward(self, ids, options):
        return [torch.ones(len(row), 4) for row in ids]

    def _close(self):
        pass


class Loads:
    """A loader that notes when it was called and what it made, and fails where told to."""

    def __init__(self, *failures):
        self.at, self.made, self.failures = [], [], dict.fromkeys(failures)

    def __call__(self, spec, *, stop=None):
        self.at.append(time.monotonic())
        if len(self.at) in self.failures:
            raise RuntimeFault("The server ended while starting")
        self.made.append(Fake(spec))
        return self.made[-1]


@pytest.fixture
def quick(monkeypatch):
    """Pauses of a hundredth."""
    monkeypatch.setattr(pool_module, "BACKOFF_S", tuple(pause / 100 for pause in BACKOFF_S))


def _until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_promised_pauses():
    assert BACKOFF_S == (1.0, 4.0, 16.0) and RESTART_WINDOW_S == 600.0


def test_a_lost_runtime_is_restarted_three_times_with_longer_pauses_and_then_fails(quick):
    loads = Loads()
    with Pool(memory_budget_bytes=2**40, load=loads) as pool:
        lost_at = []
        for _ in range(3):
            runtime = pool.get(SPEC)
            runtime.lost_reason = "no answer"
            lost_at.append(time.monotonic())
            runtime.lost.set()
            _until(lambda old=runtime: loads.made[-1] is not old)
            with pytest.raises(PrerequisiteError, match="unloaded"):
                runtime.forward([[1]], ForwardOptions(lora=False))  # closed before the next one opened
        pauses = [again - lost for again, lost in zip(loads.at[1:], lost_at, strict=True)]
        # each pause, and at most the half second in which a loss is noticed
        for pause, expected in zip(pauses, BACKOFF_S, strict=True):
            assert expected / 100 <= pause < expected / 100 + 1
        last = pool.get(SPEC)
        last.lost_reason = "no answer to a request of 7 tokens"
        last.lost.set()
        _until(lambda: pool.status(SPEC).state is State.FAILED)
        error = pool.status(SPEC).error
        assert "4 times" in error.what and "no answer" in error.found and "fake.log" in error.remedy
        with pytest.raises(RuntimeFault):
            pool.get(SPEC)
        assert len(loads.at) == 4
        pool.unload(SPEC)  # forgets the failure, so that somebody who mended it can go on
        assert pool.get(SPEC) is loads.made[-1] and len(loads.at) == 5


def test_a_restart_that_fails_is_one_more_death(quick):
    loads = Loads(2, 3)
    with Pool(memory_budget_bytes=2**40, load=loads) as pool:
        first = pool.get(SPEC)
        first.lost.set()
        _until(lambda: len(loads.made) == 2)
        assert len(loads.at) == 4 and pool.get(SPEC) is loads.made[1]


def test_deaths_long_ago_do_not_count(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_WINDOW_S", 0.0)
    loads = Loads()
    with Pool(memory_budget_bytes=2**40, load=loads) as pool:
        for _ in range(5):
            runtime = pool.get(SPEC)
            runtime.lost.set()
            _until(lambda old=runtime: loads.made[-1] is not old)
        assert pool.get(SPEC) is loads.made[-1]


def test_a_first_load_that_fails_is_told_and_not_repeated():
    loads = Loads(1)
    with Pool(memory_budget_bytes=2**40, load=loads) as pool:
        with pytest.raises(RuntimeFault, match="ended while starting"):
            pool.get(SPEC)
        assert pool.request(SPEC).state is State.FAILED and len(loads.at) == 1


def test_one_load_at_a_time_and_requests_do_not_wait():
    inside, together, order = [], [], []

    def load(spec, *, stop=None):
        inside.append(spec)
        order.append(spec)
        together.append(len(inside))
        time.sleep(0.1)
        inside.remove(spec)
        return Fake(spec)

    specs = [RuntimeSpec(f"r{i}", Engine.HF, "base", "float32") for i in range(4)]
    with Pool(memory_budget_bytes=2**40, load=load) as pool:
        started = time.monotonic()
        assert {pool.request(spec).state for spec in specs} == {State.LOADING}
        assert time.monotonic() - started < 0.1
        assert [pool.get(spec).spec for spec in specs] == specs
    assert order == specs  # who asked first
    assert set(together) == {1}


def test_the_least_recently_used_makes_room_before_the_next_opens(tmp_path):
    live, most = set(), []

    class Counted(Fake):
        def __init__(self, spec):
            super().__init__(spec)
            live.add(spec.name)
            most.append(len(live))

        def _close(self):
            live.discard(self.spec.name)

    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    specs = [RuntimeSpec(f"r{i}", Engine.HF, str(tmp_path), "float16") for i in range(3)]
    with Pool(memory_budget_bytes=2600, load=lambda spec, stop=None: Counted(spec)) as pool:  # 1,250 each
        pool.get(specs[0])
        pool.get(specs[1])
        pool.get(specs[0])
        pool.get(specs[2])
        assert live == {"r0", "r2"} and max(most) == 2
        assert pool.status(specs[1]).state is State.IDLE


def test_what_never_fits_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    with Pool(memory_budget_bytes=500) as pool, pytest.raises(PrerequisiteError, match="more memory"):
        pool.get(RuntimeSpec("r", Engine.HF, str(tmp_path), "float16"))


def test_unloading_while_it_loads_closes_what_comes_of_it():
    inside, go, closed = threading.Event(), threading.Event(), threading.Event()

    class Closing(Fake):
        def _close(self):
            closed.set()

    def load(spec, *, stop=None):
        inside.set()
        go.wait(5)
        return Closing(spec)

    with Pool(memory_budget_bytes=2**40, load=load) as pool:
        pool.request(SPEC)
        assert inside.wait(5)
        pool.unload(SPEC)
        assert pool.status(SPEC).state is State.IDLE
        go.set()
        assert closed.wait(5)
