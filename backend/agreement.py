"""How far two runtimes agree: states token by token, and what the adapter does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LoraEffect:
    """The change that LoRA makes on one runtime against the change on another; both near 1 when they agree."""

    cosine: float  # low: only a part of the adapter, or another one
    slope: float  # near 0: not applied; elsewhere with cosine near 1: a wrong scale


def row_cosines(a: Tensor, b: Tensor) -> tuple[float, ...]:
    """Cosine of each row of two ``[n_tokens, d]`` matrices."""
    from torch.nn.functional import cosine_similarity

    return tuple(cosine_similarity(a, b, dim=-1).tolist())


def lora_effect(on: Tensor, off: Tensor, *, baseline_on: Tensor, baseline_off: Tensor) -> LoraEffect:
    """Compare ``on - off`` of two runtimes; all ``[n_tokens, d]``, float32."""
    from torch.nn.functional import cosine_similarity

    change, expected = on - off, baseline_on - baseline_off
    return LoraEffect(
        cosine=float(cosine_similarity(change.flatten(), expected.flatten(), dim=0)),
        slope=float((change * expected).sum() / expected.square().sum()),
    )
