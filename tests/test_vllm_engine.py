"""What a server gets for speed: prompts of one request computed together, in a real engine."""

import re

import httpx
import pytest

from backend.runtimes.base import ForwardOptions
from backend.runtimes.vllm import VLLMRuntime

REQUEST = "pooling-4f1c-of3"


def _groups():
    from backend.runtimes.vllm_engine import Groups  # it imports vLLM

    return Groups()


def test_a_request_is_whole_when_its_last_prompt_is_there():
    groups = _groups()
    assert groups.are_whole(0.0)
    for i in range(3):
        assert groups.are_whole(0.0) == (i == 0)
        groups.arrived(f"{REQUEST}-{i}-8a7b6c5d", 0.0)
    assert groups.are_whole(0.0)


def test_requests_of_others_are_not_waited_for_and_prompts_that_never_come_are_given_up():
    from backend.runtimes.vllm_engine import GATHER_S

    groups = _groups()
    for name in ("pooling-4f1c-0-8a7b6c5d", "embd-abc-of-0-1", "pooling-4f1c-of1-0-8a7b6c5d"):
        groups.arrived(name, 0.0)
    assert groups.are_whole(0.0)
    groups.arrived(f"{REQUEST}-0-8a7b6c5d", 0.0)
    assert not groups.are_whole(GATHER_S * 0.9) and groups.are_whole(GATHER_S * 1.1)
    groups.arrived("pooling-other-of2-0-8a7b6c5d", 1.0)
    assert not groups.are_whole(1.0)  # the one given up is not counted again


@pytest.mark.timeout(240)
def test_an_engine_computes_each_request_in_one_pass(demo, vllm_fp16, tmp_path, monkeypatch):
    """FullGraphWorker needs a GPU: `benchmarks.scale` and `backend check` run it there."""
    scheduler = ["--scheduler-cls", "backend.runtimes.vllm_engine.GatheringScheduler", "--no-async-scheduling"]
    monkeypatch.setattr("backend.runtimes.vllm_process.engine_arguments", lambda spec: scheduler)
    prompts = [[10 + i, 11, 12] * 6 for i in range(16)]
    runtime = VLLMRuntime.start(demo.runtime("vllm-fp16"), log_dir=tmp_path)
    try:
        before = _passes(runtime)
        for _ in range(5):
            states = runtime.forward(prompts, ForwardOptions())
        assert _passes(runtime) - before == 5
    finally:
        runtime.close()
    for ours, usual in zip(states, vllm_fp16.forward(prompts, ForwardOptions()), strict=True):
        assert float((ours.float() - usual.float()).norm() / usual.float().norm()) < 5e-3


def _passes(runtime):
    metrics = httpx.get(f"{runtime.server.url}/metrics", trust_env=False).text
    return float(re.search(r"^vllm:iteration_tokens_total_count\S* (\S+)", metrics, re.M)[1])
