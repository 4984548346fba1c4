"""One diagnosis as page and command line ask for it: names and toggles in, live runtimes found, a diagnosis out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.arms import Arm
from backend.bundle import Bundle
from backend.diagnosis import diagnose
from backend.diagnosis_types import Diagnosis
from backend.errors import BackendError
from backend.file_faults import file_faults
from backend.ladder import Gold
from backend.memory import estimate_bytes
from backend.pool import Pool, State
from backend.probe import Decoding, Probe
from backend.prompt import Prompt
from backend.runtimes.base import Engine, ForwardOptions, Runtime, RuntimeSpec
from backend.state_cache import StateCache

# an HF runtime in between costs a load; below this it is done in a second and crowds nothing out
_CHEAP_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Request:
    """Which arms to compare, and how the candidate is used."""

    baseline: RuntimeSpec
    candidate: RuntimeSpec
    normalize: bool = False
    lora: bool = True
    decoding: Decoding = Decoding.UPSTREAM


def run_request(
    bundle: Bundle,
    probe: Probe,
    pool: Pool,
    prompt: Prompt,
    request: Request,
    *,
    cache: StateCache,
    gold: Gold | None = None,
    wait: bool = True,
) -> Diagnosis:
    """Diagnose one prompt.

    Args:
        bundle: names the runtimes that may stand between the arms.
        probe: the heads.
        pool: where runtimes live; both arms are loaded if need be.
        prompt: the prompt of one utterance.
        request: the arms.
        cache: states computed before.
        gold: as `diagnose` takes it.
        wait: load cheap runtimes in between first; otherwise they are asked for and join a later diagnosis.

    Raises:
        BackendError: as loading and `diagnose` do.
    """
    files = file_faults(request.candidate, bundle.base, trained=bundle.adapter)
    options = ForwardOptions(normalize=request.normalize, lora=request.lora)
    baseline = pool.get(request.baseline)
    lora = baseline.info.has_adapter
    return diagnose(
        probe,
        prompt,
        Arm(baseline, ForwardOptions(lora=lora)),
        Arm(pool.get(request.candidate), options, request.decoding, files),
        gold=gold,
        others=_between(bundle, pool, request, wait=wait),
        cache=cache,
    )


def _between(bundle: Bundle, pool: Pool, request: Request, *, wait: bool) -> list[Runtime]:
    """Return the bundle's live runtimes, and HF ones that change one factor each where loading them is cheap."""
    live = [spec for spec in bundle.runtimes if pool.status(spec).state is State.READY]
    cheap = [spec for spec in _steps(bundle, request) if estimate_bytes(spec) <= _CHEAP_BYTES]
    found = []
    for spec in dict.fromkeys([*live, *cheap]):
        try:
            if wait or pool.request(spec).state is State.READY:
                found.append(pool.get(spec))
        except BackendError:
            continue  # a step of the ladder less
    return found


def _steps(bundle: Bundle, request: Request) -> Sequence[RuntimeSpec]:
    """Return HF runtimes of the baseline's and the candidate's weights in the candidate's dtype."""
    a, b = request.baseline, request.candidate
    wanted = [replace(a, dtype=b.dtype, engine=Engine.HF, urls=()), replace(b, engine=Engine.HF, urls=())]
    named = {(s.engine, s.model, s.dtype, s.adapter): s for s in bundle.runtimes}
    return [
        named.get((s.engine, s.model, s.dtype, s.adapter), replace(s, name=f"{s.name} in hf {s.dtype}")) for s in wanted
    ]
