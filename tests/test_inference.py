"""What one lane does wrong stays on that lane."""

import time

import pytest
import torch

from backend import inference
from backend.errors import RuntimeFault, RuntimeTimeout
from backend.inference import run_on_all
from backend.pool import Pool, State
from backend.runtimes.base import Engine, ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec
from backend.schema import load_schemas


class Scripted(Runtime):
    """Answers with what its name says."""

    def __init__(self, spec, width):
        super().__init__(spec, RuntimeInfo("cpu", "float32", width, 1024, has_adapter=True))

    def _forward(self, ids, options):
        if self.spec.name == "hangs":
            time.sleep(5)
        if self.spec.name == "no memory":
            raise MemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        value = float("nan") if self.spec.name == "NaN" else 1.0
        return [torch.full((len(row), self.info.d_model), value) for row in ids]

    def _close(self):
        pass


@pytest.fixture
def answers(demo, monkeypatch):
    """Outcomes of a healthy lane between three that are not."""
    monkeypatch.setattr(inference, "LANE_S", 0.5)
    probe = demo.load_probe()
    prompt = probe.builder.build(load_schemas(demo.schemas)["book_flight"], "fly to Rome")
    specs = [RuntimeSpec(name, Engine.HF, "b", "float32") for name in ("NaN", "no memory", "hangs", "healthy")]
    with Pool(memory_budget_bytes=2**40, load=lambda spec, stop=None: Scripted(spec, 384)) as pool:
        for spec in specs:
            pool.get(spec)
        started = time.monotonic()
        outcomes = run_on_all(pool, specs, probe, prompt, ForwardOptions())
        yield {o.spec.name: o for o in outcomes}, time.monotonic() - started


def test_each_fault_is_a_named_error_on_its_own_lane(answers):
    outcomes, seconds = answers
    assert all(outcome.status.state is State.READY for outcome in outcomes.values())
    assert outcomes["healthy"].run is not None and outcomes["healthy"].error is None
    for name, kind in (("NaN", RuntimeFault), ("no memory", RuntimeFault), ("hangs", RuntimeTimeout)):
        assert outcomes[name].run is None and type(outcomes[name].error) is kind and outcomes[name].error.remedy
    assert "out of memory" in outcomes["no memory"].error.found
    assert seconds < 4  # less than the hanging lane takes
