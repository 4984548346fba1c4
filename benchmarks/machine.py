"""The machine and the versions that a figure belongs to."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from backend.runtimes.vllm_compat import vllm_version
from benchmarks.measuring import processor

_PACKAGES = ("torch", "transformers", "peft")


def environment() -> dict[str, str]:
    """Return processor, accelerator and versions, by name; nothing that identifies the machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cores = len(os.sched_getaffinity(0))
    versions = {name: metadata.version(name) for name in _PACKAGES} | {"vllm": vllm_version() or "none"}
    return {"processor": f"{processor()}, {cores} cores", "gpu": gpu, "python": platform.python_version(), **versions}
