"""CUDA graphs for a managed vLLM server, where ``cuda_graphs = true`` in its ``[[runtime]]`` table asks for them.

A forward pass of a few hundred tokens spends its time launching kernels, which CUDA graphs save. For pooling models vLLM
captures graphs piece by piece between attention calls, one set for each number of tokens; larger batches run without.
Backend ``eager`` leaves the pieces as they are: Inductor would add half a minute to the start and fuse kernels, so that
states with and without graphs differ. Written from the sources of vLLM 0.25.1 and 0.32, run with 0.25.1 on an H100
(``benchmarks.scale``). Capturing takes seconds and memory at every start, which is why it has to be asked for.
"""

from __future__ import annotations

import json

from backend.runtimes.base import RuntimeSpec

CAPTURE_SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # tokens of a batch; the next larger one is padded to
BATCHED_TOKENS = 4096  # in one forward pass: enough to be bound by arithmetic, and what one request of ours holds


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
        *("--max-num-seqs", "256"),
        *("--compilation-config", json.dumps(graphs)),
    ]
