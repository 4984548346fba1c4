"""A spec becomes a live runtime."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from backend.adapter import require_weights
from backend.errors import BundleError
from backend.foreign_code import refuse_foreign_code
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

    if not spec.urls:
        _refuse_files(spec)
    return VLLMRuntime.connect(spec) if spec.urls else VLLMRuntime.start(spec, log_dir=LOG_DIR, stop=stop)


def _refuse_files(spec: RuntimeSpec) -> None:
    """Refuse what vLLM would take without asking: pickled weights where safetensors are missing, code from elsewhere."""
    refuse_foreign_code(spec.model)
    model = Path(spec.model)
    if model.is_dir() and not any(model.glob("*.safetensors")):
        raise BundleError("No weights", found=f"no .safetensors in {model.name}", remedy="Save them as safetensors.")
    if spec.adapter is not None:
        refuse_foreign_code(spec.adapter)
        if Path(spec.adapter).is_dir():
            require_weights(Path(spec.adapter))
