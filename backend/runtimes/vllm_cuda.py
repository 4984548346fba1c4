"""What a managed vLLM server is told on a CUDA device: CUDA graphs, and key-value memory that fits its token budget.

A forward pass of a few hundred tokens spends its time launching kernels, which CUDA graphs save. For pooling models vLLM
captures graphs piece by piece between attention calls, one set for each number of tokens, larger batches run without.
Backend ``eager`` leaves the pieces as they are: Inductor would add half a minute to the start and fuse kernels, so that
states with and without graphs differ.
"""

from __future__ import annotations

import json

from backend.runtimes.base import RuntimeSpec

CAPTURE_SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # tokens of a batch; the next larger one is padded to
BATCHED_TOKENS = 4096  # in one forward pass: enough to be bound by arithmetic, and what one request of ours holds
_LEAST_BYTES = 256 * 2**20


def on_cuda() -> bool:
    """Tell whether servers started here run on a CUDA device."""
    import torch

    return torch.cuda.is_available()


def cuda_arguments(spec: RuntimeSpec) -> list[str]:
    """Return the arguments that take the place of ``--enforce-eager`` and of the CPU's memory limits."""
    tokens = max(BATCHED_TOKENS, spec.max_tokens)
    graphs = {
        "mode": 3,  # the one that cuts a model into pieces; named VLLM_COMPILE
        "backend": "eager",
        "cudagraph_mode": "PIECEWISE",
        "cudagraph_capture_sizes": list(CAPTURE_SIZES),
    }
    return [
        *("--max-num-batched-tokens", str(tokens)),
        *("--max-num-seqs", "256"),
        *("--kv-cache-memory-bytes", str(max(_LEAST_BYTES, 2 * tokens * _bytes_per_token(spec.model)))),
        *("--compilation-config", json.dumps(graphs)),
    ]


def _bytes_per_token(model: str) -> int:
    """Return what keys and values of one token take in all layers, at two bytes a number."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * 2 * int(config.num_hidden_layers) * int(heads) * int(width)
