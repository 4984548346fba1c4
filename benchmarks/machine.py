"""The machine and the versions that a figure belongs to."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from backend.runtimes.vllm_compat import vllm_version

_PACKAGES = ("torch", "transformers", "peft")


def environment() -> dict[str, str]:
    """Return processor, accelerator and versions, by name; nothing that identifies the machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cores = len(os.sched_getaffinity(0))
    versions = {name: metadata.version(name) for name in _PACKAGES} | {"vllm": vllm_version() or "none"}
    return {"processor": f"{_processor()}, {cores} cores", "gpu": gpu, "python": platform.python_version(), **versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
