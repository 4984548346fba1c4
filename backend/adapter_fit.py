"""Which change of the trained adapter gives the states that were found: a scale, or modules left out.

A strong adapter does not act linearly, so no statistic of the states tells these apart by itself; the baseline's own
adapter is changed until it gives what the candidate gave, or nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.agreement import row_errors
from backend.runtimes.adapter_edit import AdapterEdit

if TYPE_CHECKING:
    from torch import Tensor

_GRID = tuple(2.0**k for k in (-3, -2, -1, -0.5, 0.5, 1, 1.5, 2, 3))
_MOST_FORWARDS = 400  # of one greedy search: seconds on the demo, some ten seconds on 8B


@dataclass(frozen=True, slots=True)
class AdapterFit:
    """The change that comes nearest."""

    edit: AdapterEdit
    error: float  # mean relative error of the rows under it


def fit_scale(found: Tensor, expected: Callable[[AdapterEdit], Tensor]) -> AdapterFit:
    """Return the one scale for all modules that explains ``found [n_tokens, d]`` best."""
    from scipy.optimize import minimize_scalar

    def error(scale: float) -> float:
        return _error(found, expected(AdapterEdit(scale=scale)))

    best = min(_GRID, key=error)
    near = minimize_scalar(error, bounds=(best / 1.5, best * 1.5), method="bounded", options={"xatol": best / 200})
    scale = min((best, float(near.x)), key=error)
    return AdapterFit(AdapterEdit(scale=scale), error(scale))


def fit_missing(
    found: Tensor, expected: Callable[[AdapterEdit], Tensor], groups: Sequence[str], *, tolerance: float
) -> AdapterFit:
    """Return the set of layers, or of module kinds, whose absence explains ``found [n_tokens, d_model]`` best.

    Greedy from the whole adapter downwards and, as most may be missing, from no adapter upwards; stops as soon as the error
    is within ``tolerance``.
    """
    layers = [group for group in groups if group.startswith("layers.")]
    kinds = [group for group in groups if group not in layers]
    fits = []
    for family in (layers, kinds):
        for start in (frozenset[str](), frozenset(family)):
            fits.append(_greedy(found, expected, family, start, tolerance))
            if fits[-1].error <= tolerance:
                return fits[-1]
    return min(fits, key=lambda fit: fit.error)


def _greedy(
    found: Tensor,
    expected: Callable[[AdapterEdit], Tensor],
    family: Sequence[str],
    start: frozenset[str],
    tolerance: float,
) -> AdapterFit:
    """Toggle one group after another, each time the best one, away from ``start``."""
    without, error = start, _error(found, expected(AdapterEdit(without=start)))
    spent = 0
    while error > tolerance and spent < _MOST_FORWARDS:
        moves = [without ^ {group} for group in family if (group in without) == (group in start)]
        errors = [_error(found, expected(AdapterEdit(without=move))) for move in moves]
        spent += len(moves)
        if not moves or min(errors) >= error:
            break
        error, without = min(zip(errors, moves, strict=True), key=lambda pair: pair[0])
    return AdapterFit(AdapterEdit(without=without), error)


def _error(found: Tensor, expected: Tensor) -> float:
    return float(row_errors(found, expected).mean())
