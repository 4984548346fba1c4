"""What a managed server is told where CUDA graphs are asked for."""

import json
from dataclasses import replace

from backend.runtimes.vllm_compat import serve_arguments, serve_line, spelling_of
from backend.runtimes.vllm_cuda import BATCHED_TOKENS, CAPTURE_SIZES, engine_arguments


def _value(arguments, flag):
    return arguments[arguments.index(flag) + 1]


def test_graphs_replace_eager_only_where_asked_for(demo):
    spec, spelling = demo.runtime("vllm-fp16"), spelling_of("0.25.1")
    assert "--enforce-eager" in serve_arguments(spec, spelling, port=1)
    arguments = serve_arguments(replace(spec, cuda_graphs=True), spelling, port=1)
    assert "--enforce-eager" not in arguments and arguments.count("--kv-cache-memory-bytes") == 1
    graphs = json.loads(_value(arguments, "--compilation-config"))
    assert graphs["cudagraph_capture_sizes"] == list(CAPTURE_SIZES) and max(CAPTURE_SIZES) <= BATCHED_TOKENS


def test_classes_of_ours_go_to_our_own_servers_alone(demo):
    spec = demo.runtime("vllm-fp16")
    graphs = replace(spec, cuda_graphs=True)
    assert engine_arguments(spec) == [] and "FullGraphWorker" in " ".join(engine_arguments(graphs))
    assert "backend." not in serve_line(graphs, spelling_of("0.25.1"))  # pasted where this project is not installed
