"""The values of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.agreement import LoraEffect
from backend.geometry import NullGeometry, PointerCertificate
from backend.probe import SlotPrediction


class Cause(StrEnum):
    """Why a slot was read otherwise than it should have been."""

    NORMALIZATION = "normalisation on"
    LORA_NOT_APPLIED = "LoRA not applied"
    LORA_PARTIAL = "LoRA partly applied"
    LORA_SCALE = "LoRA with a wrong scale, or applied twice"
    OTHER_ADAPTER = "adapter of another model"
    ADAPTER_MISFIT = "adapter does not fit the AWQ scales"
    OTHER_SOURCE = "model of another source"
    QUANTIZATION_DRIFT = "quantisation drift"
    QUANTIZATION_NEAR_TIE = "quantisation drift on a near tie"
    DTYPE_DRIFT = "dtype drift"
    ENGINE_DRIFT = "engine drift"
    ROWS_SHIFTED = "rows shifted"
    TOKEN_MISMATCH = "token mismatch"
    NON_FINITE = "non-finite values"
    RAW_GOLD = "gold compared against the raw label"
    DECODING = "start and end decoded apart"
    NULL_THRESHOLD = "null threshold"
    MODEL_ERROR = "model error: the baseline is wrong too"
    NONE = "no difference"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation and what it would be in a healthy deployment."""

    name: str
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The named cause of one slot's answer."""

    slot: str
    cause: Cause
    confidence: float  # 0 to 1
    evidence: tuple[Evidence, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class LadderStep:
    """The answer to every slot after one more factor was changed from baseline to candidate."""

    factor: str
    slots: tuple[SlotPrediction, ...]
    changed: tuple[str, ...]  # slots whose answer differs from the step before


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything about one prompt on two runtimes."""

    verdicts: tuple[Verdict, ...]
    ladder: tuple[LadderStep, ...]
    geometry: tuple[NullGeometry, ...]  # of the candidate's raw states
    certificates: tuple[PointerCertificate, ...]
    cosine: tuple[float, ...]  # per prompt token, candidate against baseline, raw
    fingerprint: LoraEffect | None  # None without adapters
