"""A runtime with the options it was used with, and the states it gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.diagnosis_types import Finding
from backend.probe import Decoding
from backend.runtimes.base import ForwardOptions, Runtime
from backend.state_cache import StateCache

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = ForwardOptions(lora=False)


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison."""

    runtime: Runtime
    options: ForwardOptions
    decoding: Decoding = Decoding.UPSTREAM
    files: tuple[Finding, ...] = ()  # what its files say, see `backend.file_faults`


@dataclass(frozen=True, slots=True)
class States:
    """``[n_tokens, d]`` float32: as the arm answers, raw with its LoRA setting, and raw without LoRA."""

    used: Tensor
    raw: Tensor
    plain: Tensor  # equal to raw where there is no adapter, or it is off


def states_of(arm: Arm, ids: Sequence[int], cache: StateCache) -> States:
    """Ask for all three; raises `BackendError` as `Runtime.forward` does."""
    raw = cache.states(arm.runtime, ids, ForwardOptions(lora=arm.options.lora))
    used = cache.states(arm.runtime, ids, arm.options)
    plain = cache.states(arm.runtime, ids, PLAIN) if arm.options.lora else raw
    return States(used, raw, plain)
