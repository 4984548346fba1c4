"""Intervals and tests for shares and for paired flips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from backend.errors import InputError


class Verdict(StrEnum):
    """Whether a candidate is no worse than its baseline by more than a margin."""

    YES = "yes"
    NO = "no"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """A paired comparison against a margin, at 95 % one-sided confidence."""

    verdict: Verdict
    delta: float  # candidate minus baseline, share
    lower: float  # one-sided 95 % bound of delta
    upper: float
    margin: float
    n: int
    n_needed: int | None  # about how many pairs would settle it, where they do not yet


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (statsmodels); raises `InputError` where ``n`` is 0."""
    from statsmodels.stats.proportion import proportion_confint

    if n == 0:
        raise InputError("No interval of nothing", found="n = 0", remedy="Use a set with present slots.")
    low, high = proportion_confint(right, n, alpha=0.05, method="wilson")
    return float(low), float(high)


def mcnemar_p(regressions: int, improvements: int) -> float:
    """Return the exact two-sided p value of McNemar's test (binomial, scipy); 1 where nothing flipped."""
    from scipy.stats import binomtest

    flips = regressions + improvements
    return float(binomtest(regressions, flips, 0.5).pvalue) if flips else 1.0


def non_inferiority(regressions: int, improvements: int, n: int, *, margin: float) -> NonInferiority:
    """Compare paired shares against a margin.

    Bounds are Agresti and Min's adjusted Wald interval (Statistics in Medicine 24, 2005): half a pair is added to each of
    the four cells, which keeps the stated coverage where flips are few or none.

    Args:
        regressions: pairs that the baseline had right and the candidate wrong.
        improvements: the other way round.
        n: all pairs.
        margin: largest loss that is acceptable, as a share (0.01 for one point).

    Raises:
        InputError: where ``n`` is 0 or the margin is not positive.
    """
    from scipy.stats import norm

    if n == 0 or margin <= 0:
        raise InputError("A comparison needs pairs and a positive margin", found=f"n = {n}, margin {margin}")
    b, c, total = regressions + 0.5, improvements + 0.5, n + 2
    delta = (c - b) / total
    variance = (b + c - (c - b) ** 2 / total) / total  # of one pair's difference
    z = float(norm.ppf(0.95))
    half = z * math.sqrt(variance / total)
    lower, upper = delta - half, delta + half
    if lower > -margin:
        verdict = Verdict.YES
    elif upper < -margin:
        verdict = Verdict.NO
    else:
        verdict = Verdict.NOT_ENOUGH_DATA
    distance = abs(delta + margin)
    needed = math.ceil(z * z * variance / distance**2) if verdict is Verdict.NOT_ENOUGH_DATA and distance else None
    return NonInferiority(verdict, (improvements - regressions) / n, lower, upper, margin, n, needed)
