"""How far two runtimes agree: states token by token, and what the adapter does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LoraEffect:
    """The change that LoRA makes on one runtime against the change on another; both near 1 when they agree.

    A summary to look at. A strong adapter does not act linearly: twice the scale gave the demo slope 0.98, not 2 (cosine
    0.75), so causes are named by `backend.adapter_fit`, which asks what each fault would have given.
    """

    cosine: float
    slope: float  # near 0: not applied


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


def row_errors(found: Tensor, expected: Tensor) -> Tensor:
    """Relative error of each row, ``|found - expected| / |expected|``: ``[n_tokens]``."""
    errors: Tensor = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return errors


def likeness(found: Tensor, expected: Tensor) -> Tensor:
    """How much nearer each row is to its own expectation than to the others': 1 for equal, 0 for unrelated; ``[n_tokens]``.

    States share a direction, so that even unrelated ones have a positive cosine. The mean cosine between *different*
    tokens of ``expected`` is that level: ``(cos - level) / (1 - level)``.
    """
    from torch.nn.functional import cosine_similarity, normalize

    unit = normalize(expected, dim=-1)
    n = len(unit)
    level = (unit.sum(dim=0).square().sum() - n) / max(1, n * (n - 1))
    like: Tensor = (cosine_similarity(found, expected, dim=-1) - level) / (1 - level)
    return like
