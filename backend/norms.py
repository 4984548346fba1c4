"""Statistics of hidden-state norms, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_OUTLIER_Z = 3.5  # modified z-score of Iglewicz and Hoaglin (1993)


@dataclass(frozen=True, slots=True)
class NormStats:
    """L2 norms of a set of token states."""

    n: int
    mean: float
    std: float  # population
    min: float
    max: float
    cv: float  # std / mean; the pointer head is scale-invariant only while this is near 0
    outliers: tuple[int, ...]  # rows whose modified z-score is above 3.5


def token_norms(states: Tensor) -> Tensor:
    """L2 norm of each row of ``[n_tokens, d_model]`` as float32 ``[n_tokens]``."""
    norms: Tensor = states.float().norm(dim=-1)
    return norms


def norm_stats(states: Tensor) -> NormStats:
    """Norm statistics of ``[n_tokens, d_model]`` states; NaN rows give NaN figures.

    Raises:
        ValueError: if there is no row.
    """
    norms = token_norms(states)
    if norms.numel() == 0:
        raise ValueError("norm statistics of no tokens")
    mean = float(norms.mean())
    std = float(norms.std(unbiased=False))
    return NormStats(
        n=norms.numel(),
        mean=mean,
        std=std,
        min=float(norms.min()),
        max=float(norms.max()),
        cv=std / mean if mean else float("nan"),
        outliers=_outliers(norms),
    )


def normalize(states: Tensor) -> Tensor:
    """Divide each row of ``[..., d_model]`` by its L2 norm, as vLLM's pooler does; float32."""
    from torch.nn.functional import normalize as l2_normalize

    return l2_normalize(states.float(), p=2.0, dim=-1)


def _outliers(norms: Tensor) -> tuple[int, ...]:
    deviation = norms - norms.median()
    spread = float(deviation.abs().median())
    if spread == 0.0:
        return ()
    return tuple((0.6745 * deviation.abs() / spread > _OUTLIER_Z).nonzero().flatten().tolist())
