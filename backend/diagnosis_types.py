"""The values of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.agreement import LoraEffect
from backend.geometry import NullGeometry, PointerCertificate
from backend.norms import NormStats
from backend.probe import SlotPrediction


class Cause(StrEnum):
    """Why a slot was read otherwise than it should have been; a closed list."""

    NORMALIZATION = "normalisation on"
    LORA_NOT_APPLIED = "LoRA not applied"
    LORA_PARTIAL = "LoRA partly applied"
    LORA_SCALE = "LoRA with a wrong scale"
    LORA_TWICE = "LoRA applied twice"
    OTHER_ADAPTER = "adapter of another model"
    ADAPTER_MISFIT = "adapter does not fit the AWQ scales"
    OTHER_SOURCE = "base of another source"
    QUANTIZED_OTHER_SOURCE = "quantised model of another source"
    CONFIG_MISMATCH = "rope or config mismatch"
    ROWS_SHIFTED = "rows shifted"
    EXTRA_BOS = "a second BOS in front"
    TRUNCATED = "prompt truncated"
    TOKEN_MISMATCH = "token mismatch"
    NON_FINITE = "non-finite values"
    QUANTIZATION_DRIFT = "quantisation drift"
    QUANTIZATION_NEAR_TIE = "quantisation drift on a near tie"
    DTYPE_DRIFT = "dtype drift"
    ENGINE_DRIFT = "engine drift"
    RAW_GOLD = "gold compared against the raw label"
    LABEL_WRONG = "the label itself is wrong"
    DECODING = "start and end decoded apart"
    NULL_THRESHOLD = "null threshold"
    MODEL_ERROR = "model error: the baseline is wrong too"
    NONE = "no difference"


# what is wrong with a deployment as a whole; the other causes are about one answer
FAULTS = frozenset(list(Cause)[: list(Cause).index(Cause.QUANTIZATION_DRIFT)])


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation and what it would be in a healthy deployment."""

    name: str
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a deployment, whatever it did to one answer."""

    cause: Cause
    confidence: float  # 0 to 1
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One named cause of one slot's answer; a slot has several where several act at once."""

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
    right: tuple[bool | None, ...]  # judged against gold; None without gold
    changed: tuple[str, ...]  # slots whose answer, or judgement, differs from the step before


@dataclass(frozen=True, slots=True)
class SlotShares:
    """How much each factor has to do with one slot's change: Shapley values, which add up to 1."""

    slot: str
    shares: tuple[tuple[str, float], ...]  # factor and share, largest first

    @property
    def order_matters(self) -> bool:
        """Tell whether the first step to change the answer depends on the order of steps."""
        return self.shares[0][1] < 1 - 1e-9


@dataclass(frozen=True, slots=True)
class ArmView:
    """What one arm made of the prompt, for people to look at."""

    runtime: str
    norms: NormStats  # of the states as the arm used them
    token_norms: tuple[float, ...]  # one a prompt token
    start: tuple[tuple[float, ...], ...]  # [n_slots][n_utterance_tokens]
    end: tuple[tuple[float, ...], ...]
    slots: tuple[SlotPrediction, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything about one prompt on two arms."""

    faults: tuple[Finding, ...]  # of the candidate as a whole
    verdicts: tuple[Verdict, ...]  # in slot order; at least one a slot
    ladder: tuple[LadderStep, ...]  # empty where the candidate gave nothing that can be scored
    shares: tuple[SlotShares, ...]  # of the slots whose answer changed
    geometry: tuple[NullGeometry, ...]  # of the candidate's raw states
    certificates: tuple[PointerCertificate, ...]
    cosine: tuple[float, ...]  # per prompt token, candidate against baseline, raw
    fingerprint: LoraEffect | None  # None without adapters
    arms: tuple[ArmView, ...]  # baseline and candidate; only the baseline where the ladder is empty
