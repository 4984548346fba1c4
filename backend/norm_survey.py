"""Norms over many prompts: what normalising would do to the null decisions, at any scale, and what mends it.

With ``s`` the weight part of a slot's null margin, ``b`` the bias and ``n`` the norm of its query state, the raw margin is
``s + b``; states divided by their norm and multiplied by ``c`` give ``c s / n + b``. The hot fix ``b' = b / mean(n)`` gives
``s / n + b / mean(n)``, the same decisions as ``c = mean(n)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import InputError
from backend.geometry import null_geometry, pointer_certificates
from backend.norms import token_norms
from backend.probe import Probe
from backend.prompt import Prompt
from backend.store import Store
from backend.stored_examples import null_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_SWEEP = 121  # scales from 1 to four times the mean norm, evenly on a log axis


@dataclass(frozen=True, slots=True)
class NullTable:
    """Null decisions of many slots on one runtime's raw states; arrays ``[n_slots]``."""

    weight: NDArray[np.float64]  # s
    bias: float  # b
    norm: NDArray[np.float64]  # n
    gold: NDArray[np.bool_] | None  # whether the slot is there; None without gold

    @property
    def in_band(self) -> float:
        """Return the share of decisions that normalising flips."""
        return float((self._at(1.0) != self.raw).mean())

    @property
    def raw(self) -> NDArray[np.bool_]:
        """Return which slots are read as present on raw states: ``[n_slots]``."""
        return self.weight + self.bias >= 0

    def _at(self, scale: float, *, bias: float | None = None) -> NDArray[np.bool_]:
        return scale * self.weight / self.norm + (self.bias if bias is None else bias) >= 0


@dataclass(frozen=True, slots=True)
class Decisions:
    """How many null decisions are right, and how many are not the raw ones."""

    name: str
    accuracy: float | None  # presence accuracy; None without gold
    flips: int
    n: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Presence accuracy, or agreement with raw states without gold, against the scale of normalised states."""

    scales: tuple[float, ...]
    accuracy: tuple[float, ...]
    mean_norm: float


@dataclass(frozen=True, slots=True)
class TokenNorms:
    """Norms of all tokens of many prompts on one runtime, and which pointers survive normalising."""

    norms: tuple[float, ...]
    certified: int  # slots
    n_slots: int

    @property
    def mean(self) -> float:
        """Return the mean norm."""
        return sum(self.norms) / len(self.norms)

    @property
    def cv(self) -> float:
        """Return std / mean."""
        variance = sum((norm - self.mean) ** 2 for norm in self.norms) / len(self.norms)
        return float(variance**0.5 / self.mean)


def stored_table(store: Store, run: int, runtime: str, probe: Probe) -> NullTable:
    """Take the null decisions of a run's raw rows with LoRA on apart; the bundle's heads must be the run's.

    Raises:
        InputError: if the run holds no such rows.
    """
    import numpy as np

    rows = null_rows(store, run, runtime)
    if not rows:
        raise InputError("The run has no raw rows with LoRA on", found=runtime, remedy="Evaluate with L2 off, LoRA on.")
    bias = _bias(probe)
    margin, norm, gold = (np.array(column) for column in zip(*rows, strict=True))
    return NullTable(margin - bias, bias, norm, gold)


def live_table(probe: Probe, prompts: Sequence[Prompt], states: Sequence[Tensor]) -> NullTable:
    """Take the null decisions of raw states ``[n_tokens, d]`` apart."""
    import numpy as np

    found = [null for prompt, rows in zip(prompts, states, strict=True) for null in null_geometry(probe, prompt, rows)]
    weight, norm = (np.array([getattr(null, name) for null in found]) for name in ("weight_part", "norm"))
    return NullTable(weight, _bias(probe), norm, None)


def survey_tokens(probe: Probe, prompts: Sequence[Prompt], states: Iterable[Tensor]) -> TokenNorms:
    """Collect token norms and certificates of raw states, ``[n_tokens, d_model]`` a prompt; raises as `Probe.scores`."""
    norms: list[float] = []
    certified = n_slots = 0
    for prompt, rows in zip(prompts, states, strict=True):
        norms += token_norms(rows).tolist()
        certificates = pointer_certificates(probe, prompt, rows)
        certified += sum(certificate.certified for certificate in certificates)
        n_slots += len(certificates)
    return TokenNorms(tuple(norms), certified, n_slots)


def decisions(table: NullTable) -> tuple[Decisions, ...]:
    """Return raw, normalised, and normalised with the hot fix."""
    mean = float(table.norm.mean())
    ways = (
        ("raw", table.raw),
        ("normalised", table._at(1.0)),
        (f"normalised, b' = b / {mean:.2f}", table._at(1.0, bias=table.bias / mean)),
    )
    return tuple(
        Decisions(name, _accuracy(present, table), int((present != table.raw).sum()), len(present))
        for name, present in ways
    )


def sweep(table: NullTable) -> Sweep:
    """Count at scales from 1 to four times the mean norm."""
    import numpy as np

    mean = float(table.norm.mean())
    scales = np.geomspace(1.0, max(2.0, 4 * mean), _SWEEP)
    target = table.raw if table.gold is None else table.gold
    accuracy = [float((table._at(float(scale)) == target).mean()) for scale in scales]
    return Sweep(tuple(scales.tolist()), tuple(accuracy), mean)


def _accuracy(present: NDArray[np.bool_], table: NullTable) -> float | None:
    return None if table.gold is None else float((present == table.gold).mean())


def _bias(probe: Probe) -> float:
    return float(probe.heads.null_bias[0] - probe.heads.null_bias[1])
