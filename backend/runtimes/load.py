"""A spec becomes a live runtime."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from backend.foreign_code import refuse_foreign_code
from backend.quarantine import require_sound
from backend.runtimes.base import Engine, Runtime, RuntimeSpec
from backend.weight_files import require_adapter_weights, require_model_weights

LOG_DIR = Path(tempfile.gettempdir()) / "probe-parity"


def load_runtime(spec: RuntimeSpec, *, stop: threading.Event | None = None) -> Runtime:
    """Load in this thread and return when it is ready; ``stop`` gives up where that is possible.

    Raises:
        BackendError: as the runtime's own loader does.
    """
    if spec.engine is Engine.HF or (spec.engine is Engine.VLLM and not spec.urls):
        require_sound(spec.model, spec.adapter)
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
    """Refuse what vLLM would take without asking: pickles, random numbers for missing layers, code from elsewhere."""
    refuse_foreign_code(spec.model)
    if Path(spec.model).is_dir():
        require_model_weights(Path(spec.model))
    if spec.adapter is not None:
        refuse_foreign_code(spec.adapter)
        require_adapter_weights(spec.adapter)
