"""What normalisation does to the two heads, exactly: the null flip band and the pointer certificate.

With decision margin ``m = s + b``, ``s = (w0 - w1) . q`` and ``b = b0 - b1``, dividing the query by its norm ``n`` turns
the margin into ``s / n + b``. Every pointer score is divided by its own token's norm, and by the query's, which all share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.probe import Probe
from backend.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class NullGeometry:
    """One slot's null decision, taken apart."""

    slot: str
    weight_part: float  # s
    bias_part: float  # b
    norm: float  # n, of the query state

    @property
    def ratio(self) -> float:
        """Return |s| / |b|; the decision flips exactly when the signs differ and this lies in (1, n)."""
        return abs(self.weight_part) / abs(self.bias_part) if self.bias_part else float("inf")

    @property
    def flips(self) -> bool:
        """Tell whether normalisation flips presence."""
        raw = self.weight_part + self.bias_part >= 0
        return raw != (self.weight_part / self.norm + self.bias_part >= 0)


@dataclass(frozen=True, slots=True)
class PointerCertificate:
    """Whether both ends of one slot's pointer survive per-token normalisation."""

    slot: str
    start: bool
    end: bool

    @property
    def certified(self) -> bool:
        """Tell whether the pointer stays where it is."""
        return self.start and self.end


def null_geometry(probe: Probe, prompt: Prompt, states: Tensor) -> tuple[NullGeometry, ...]:
    """Take every slot's null decision apart; ``states [n_tokens, d]`` raw. Raises `RuntimeFault` as `Probe.scores`."""
    probe.scores(prompt, states)  # checks that states fit
    heads = probe.heads
    queries = states.float()[list(prompt.query_positions)]
    weight = heads.null_weight[0] - heads.null_weight[1]
    bias = float(heads.null_bias[0] - heads.null_bias[1])
    return tuple(
        NullGeometry(slot, part, bias, norm)
        for slot, part, norm in zip(
            prompt.slot_names, (queries @ weight).tolist(), queries.norm(dim=-1).tolist(), strict=True
        )
    )


def pointer_certificates(probe: Probe, prompt: Prompt, states: Tensor) -> tuple[PointerCertificate, ...]:
    """Check for every slot that argmax of ``score / token norm`` is argmax of the score; raw ``[n_tokens, d_model]``."""
    scores = probe.scores(prompt, states)
    span = prompt.utterance_span
    norms = states.float()[span.start : span.end].norm(dim=-1)
    kept = [(s.argmax(dim=-1) == (s / norms).argmax(dim=-1)).tolist() for s in (scores.start, scores.end)]
    return tuple(PointerCertificate(slot, a, b) for slot, a, b in zip(prompt.slot_names, *kept, strict=True))
