"""A spec becomes a live runtime."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from backend.runtimes.base import Engine, Runtime, RuntimeSpec

LOG_DIR = Path(tempfile.gettempdir()) / "probe-parity"


def load_runtime(spec: RuntimeSpec, *, stop: threading.Event | None = None) -> Runtime:
    """Load in this thread and return when it is ready; ``stop`` gives up where that is possible.

    Raises:
        BackendError: as the runtime's own loader does.
    """
    if spec.engine is Engine.HF:
        from backend.runtimes.hf import HFRuntime

        return HFRuntime.load(spec)
    if spec.engine is Engine.RECORDED:
        from backend.runtimes.recorded import RecordedRuntime

        return RecordedRuntime.load(spec)
    from backend.runtimes.vllm import VLLMRuntime

    return VLLMRuntime.connect(spec) if spec.urls else VLLMRuntime.start(spec, log_dir=LOG_DIR, stop=stop)
