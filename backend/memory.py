"""How much memory runtimes take, by estimate, and how much there is."""

from __future__ import annotations

from pathlib import Path

from backend.runtimes.base import Engine, RuntimeSpec
from backend.runtimes.vllm_compat import kv_cache_bytes

_SERVER_BYTES = int(2.2 * 2**30)  # resident memory of a vLLM CPU server and engine with a 20 MB model: 2.3 GiB
_MEASURED_CACHE = 256 * 2**20  # the cache that is in it
_BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}


def estimate_bytes(spec: RuntimeSpec) -> int:
    """Estimate what a runtime takes: weights in its dtype, and what its engine needs beside them."""
    if spec.urls or spec.engine is Engine.RECORDED:
        return 0
    weights = _checkpoint_bytes(spec.model) * _BYTES_PER_VALUE.get(spec.dtype, 4) // 2
    if spec.engine is Engine.VLLM:
        return weights + _SERVER_BYTES + kv_cache_bytes(spec) - _MEASURED_CACHE
    return weights + weights // 4


def estimate_load_s(spec: RuntimeSpec) -> float:
    """Estimate how long loading takes: a vLLM server starts in 20 to 41 s, weights come at about 200 MB a second."""
    if spec.urls:
        return 2.0
    return (30.0 if spec.engine is Engine.VLLM else 4.0) + _checkpoint_bytes(spec.model) / 200e6


def budget_bytes() -> int:
    """Return 70 % of the memory that is free now: on the accelerator if there is one, in the machine otherwise."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(0.7 * torch.cuda.mem_get_info()[0])
    return int(0.7 * psutil.virtual_memory().available)


def _checkpoint_bytes(model: str) -> int:
    """Return the size of the weight files, taken to hold two bytes a value; 0 for a hub id not downloaded yet."""
    folder = Path(model)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
