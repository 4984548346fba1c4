"""What a managed server is told on CUDA."""

import json
from dataclasses import replace

from backend.runtimes import vllm_compat
from backend.runtimes.vllm_compat import serve_arguments, spelling_of
from backend.runtimes.vllm_cuda import BATCHED_TOKENS, CAPTURE_SIZES, cuda_arguments
from benchmarks.scale_model import LLAMA_8B


def _value(arguments, flag):
    return arguments[arguments.index(flag) + 1]


def test_graphs_replace_eager_only_on_cuda(demo, monkeypatch):
    spec, spelling = demo.runtime("vllm-fp16"), spelling_of("0.25.1")
    monkeypatch.setattr(vllm_compat, "on_cuda", lambda: False)
    assert "--enforce-eager" in serve_arguments(spec, spelling, port=1)
    monkeypatch.setattr(vllm_compat, "on_cuda", lambda: True)
    arguments = serve_arguments(spec, spelling, port=1)
    assert "--enforce-eager" not in arguments and arguments.count("--kv-cache-memory-bytes") == 1
    graphs = json.loads(_value(arguments, "--compilation-config"))
    assert graphs["cudagraph_capture_sizes"] == list(CAPTURE_SIZES) and max(CAPTURE_SIZES) <= BATCHED_TOKENS


def test_key_value_memory_holds_two_batches_of_an_8b_model(demo, tmp_path):
    LLAMA_8B.config().save_pretrained(tmp_path)
    spec = replace(demo.runtime("vllm-fp16"), model=str(tmp_path))
    assert int(_value(cuda_arguments(spec), "--kv-cache-memory-bytes")) == 2 * BATCHED_TOKENS * 32 * 2 * 8 * 128 * 2
