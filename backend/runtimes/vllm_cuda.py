"""CUDA graphs for a managed vLLM server, where ``cuda_graphs = true`` in its ``[[runtime]]`` table asks for them.

A forward pass of a few hundred tokens spends its time launching kernels, which CUDA graphs save. vLLM captures one set for
each number of tokens; larger batches run without. A server started from a printed line captures graphs piece by piece,
between attention calls; one that this app starts captures whole passes (`vllm_engine`). Backend ``eager`` leaves the pieces
as they are: Inductor would add half a minute to the start and fuse kernels, so that states with and without graphs differ.
Capturing takes seconds and memory at every start, which is why it has to be asked for.
"""

from __future__ import annotations

import json

from backend.runtimes.base import RuntimeSpec

CAPTURE_SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # tokens of a batch; the next larger one is padded to
BATCHED_TOKENS = 4096  # in one forward pass: enough to be bound by arithmetic, and what one request of ours holds


def engine_arguments(spec: RuntimeSpec) -> list[str]:
    """Return what a server that this app starts gets beside `serve_arguments`: classes and types for speed.

    States leave the engine in its own type: by default vLLM would widen them to float32 between two processes. A request
    that asks for normalised states gets them divided in that type, with norms within 5e-4 of 1.
    """
    if not spec.cuda_graphs:
        return []
    return [
        *("--worker-cls", "backend.runtimes.vllm_engine.FullGraphWorker"),
        *("--scheduler-cls", "backend.runtimes.vllm_engine.GatheringScheduler"),
        *("--hf-overrides", json.dumps({"head_dtype": "model"})),
        "--no-async-scheduling",  # vLLM's default for pooling: a pass may begin when the rows of the last one are copied
    ]


def graph_arguments(spec: RuntimeSpec) -> list[str]:
    """Return the arguments that take the place of ``--enforce-eager``."""
    graphs = {
        "mode": 3,  # the one that cuts a model into pieces; named VLLM_COMPILE
        "backend": "eager",
        "cudagraph_mode": "PIECEWISE",
        "cudagraph_capture_sizes": list(CAPTURE_SIZES),
    }
    return [
        *("--max-num-batched-tokens", str(max(BATCHED_TOKENS, spec.max_tokens))),
        *("--max-num-seqs", "64"),  # as many as a request of ours holds; graphs of whole passes are captured for so many
        *("--compilation-config", json.dumps(graphs)),
    ]
