"""A toggle there and back asks once each; what may have changed meanwhile is asked again."""

import pytest
import torch

from backend.inference import run, run_on_all
from backend.pool import Pool
from backend.runtimes.base import Engine, ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec
from backend.schema import load_schemas
from backend.state_cache import REMOTE_S, StateCache

OPTIONS = [ForwardOptions(normalize=n, lora=lora) for n in (False, True) for lora in (True, False)]


class Counting(Runtime):
    """Remembers what it was asked."""

    def __init__(self, spec, width):
        super().__init__(spec, RuntimeInfo("cpu", "float32", width, 1024, has_adapter=True))
        self.asked = []

    def _forward(self, ids, options):
        self.asked += [options] * len(ids)
        return [torch.randn(len(row), self.info.d_model) for row in ids]

    def _close(self):
        pass


def runtime_of(**changes):
    return Counting(RuntimeSpec("counting", Engine.HF, "b", "float32", **changes), 4)


@pytest.fixture
def probe(demo):
    return demo.load_probe()


@pytest.fixture
def prompt(demo, probe):
    return probe.builder.build(load_schemas(demo.schemas)["book_flight"], "fly to Rome")


def test_toggles_there_and_back_ask_each_state_once_and_say_so(probe, prompt):
    cache, spec = StateCache(), RuntimeSpec("counting", Engine.HF, "b", "float32")
    with Pool(memory_budget_bytes=2**40, load=lambda spec, stop=None: Counting(spec, probe.heads.d_model)) as pool:
        runtime = pool.get(spec)
        first, second = (
            [run_on_all(pool, [spec], probe, prompt, options, cache=cache)[0].run for options in OPTIONS] for _ in range(2)
        )
        assert runtime.asked == OPTIONS
        assert [made.kept for made in first + second] == [False] * 4 + [True] * 4
        assert [made.slots for made in second] == [made.slots for made in first]
        assert [made.token_norms for made in second] == [made.token_norms for made in first]
        pool.unload(spec)
        again = run_on_all(pool, [spec], probe, prompt, OPTIONS[0], cache=cache)[0]
        assert again.run is None  # it loads; nothing is shown of the one that is gone
        assert pool.get(spec) is not runtime
        assert not run_on_all(pool, [spec], probe, prompt, OPTIONS[0], cache=cache)[0].run.kept


def test_without_a_cache_every_run_asks(probe, prompt):
    runtime = Counting(RuntimeSpec("counting", Engine.HF, "b", "float32"), probe.heads.d_model)
    assert not any(run(probe, prompt, runtime, OPTIONS[0]).kept for _ in range(2))
    assert len(runtime.asked) == 2


@pytest.mark.parametrize(("urls", "asked"), [((), 1), (("http://127.0.0.1:1",), 2)])
def test_a_server_elsewhere_is_asked_again_once_it_may_have_been_restarted(urls, asked):
    now = [0.0]
    cache, runtime = StateCache(clock=lambda: now[0]), runtime_of(urls=urls)
    for seconds in (0.0, REMOTE_S, REMOTE_S + 1):
        now[0] = seconds
        cache.states(runtime, [1, 2], OPTIONS[0])
    assert len(runtime.asked) == asked


def test_what_is_kept_stays_within_the_limit_also_where_it_is_asked_again():
    cache, runtime = StateCache(limit_bytes=2 * 3 * 4 * 4), runtime_of()
    for ids in ([1, 2, 3], [1, 2, 3], [4, 5, 6]):
        cache.ask(runtime, ids, OPTIONS[0])
    assert cache.find(runtime, [1, 2, 3], OPTIONS[0]) is not None
    cache.ask(runtime, [7, 8, 9], OPTIONS[0])
    kept = [ids for ids in ([1, 2, 3], [4, 5, 6], [7, 8, 9]) if cache.find(runtime, ids, OPTIONS[0]) is not None]
    assert kept == [[1, 2, 3], [7, 8, 9]]
