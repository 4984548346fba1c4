"""Answers of a recording as the Playground shows them; needs numpy alone, neither torch nor an engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from backend.inference import RuntimeRun
from backend.norms import NormStats
from backend.recording import RecordedPrompt, Recording
from backend.runtimes.base import ForwardOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "PROBE_PARITY_RECORDING"  # environment variable: a file that `python -m backend record` wrote
IN_BUNDLE = "recorded.zip"  # shown where torch is not installed
_OUTLIER_Z = 3.5  # as backend.norms


def configured(folder: Path) -> Path | None:
    """Return the recording to show: the configured one, or the bundle's own where no model can be loaded."""
    if chosen := os.environ.get(FILE):
        return Path(chosen)
    shipped = folder / IN_BUNDLE
    return shipped if shipped.is_file() and not can_load_models() else None


def can_load_models() -> bool:
    """Tell whether torch and transformers are installed, without importing them."""
    try:
        return all(find_spec(name) is not None for name in ("torch", "transformers"))
    except ImportError:
        return False


def prompts(recording: Recording) -> tuple[RecordedPrompt, ...]:
    """Return all prompts, in the order they were recorded."""
    return tuple(recording.prompt(place) for place in range(len(recording)))


def runtimes(recording: Recording) -> tuple[str, ...]:
    """Return the names of the recorded runtimes, in the order they were recorded."""
    return tuple(dict.fromkeys(arm.runtime for arm in recording.arms))


def replay(recording: Recording, place: int, names: Sequence[str], options: ForwardOptions) -> tuple[RuntimeRun, ...]:
    """Return what each runtime answered to a prompt; latency is 0, for nothing is computed.

    Raises:
        InputError: a runtime was not recorded with these options.
    """
    runs = []
    for name in names:
        arm = recording.arm(name, lora=options.lora)
        norms = recording.norms(arm, place)
        if options.normalize:
            norms = norms / norms
        slots = recording.predictions(arm, place, normalized=options.normalize)
        runs.append(RuntimeRun(name, options, 0.0, _stats(norms), tuple(norms.tolist()), slots))
    return tuple(runs)


def _stats(norms: NDArray[np.float32]) -> NormStats:
    """Return what `backend.norms.norm_stats` says of the same norms."""
    import numpy as np

    mean, std = float(norms.mean()), float(norms.std())
    deviation = norms - np.percentile(norms, 50, method="lower")  # torch's median is the lower of two
    spread = float(np.percentile(np.abs(deviation), 50, method="lower"))
    far = np.flatnonzero(0.6745 * np.abs(deviation) / spread > _OUTLIER_Z).tolist() if spread else []
    cv = std / mean if mean else float("nan")
    return NormStats(len(norms), mean, std, float(norms.min()), float(norms.max()), cv, tuple(far))
