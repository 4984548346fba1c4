"""Which token each row of states belongs to, found by asking the runtime itself.

A causal model's row ``i`` depends on tokens up to ``i`` and on no later one. So the first row that moves when token ``j``
is replaced is row ``j``; any other row is a shift. This needs no baseline, and holds whatever else is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.runtimes.base import ForwardOptions, Runtime
from backend.state_cache import StateCache

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN = ForwardOptions(lora=False)
# of the largest change in any row: the replaced token's own row changes as a whole, rounding moves rows by a hundredth
_MOVED = 0.2


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the row of token ``i`` is."""

    shift: int = 0  # row of token i is i + shift
    constant_first: bool = False  # the first row does not depend on the first token: another token stands in front

    @property
    def is_right(self) -> bool:
        """Tell whether every row belongs to its own token."""
        return self.shift == 0 and not self.constant_first


def find_alignment(runtime: Runtime, ids: Sequence[int], cache: StateCache) -> Alignment:
    """Ask for the prompt with one token replaced, and for two prompts of one token; raises as `Runtime.forward` does."""
    others = [token for token in ids if token != ids[len(ids) // 2]]
    if len(ids) < 4 or not others:
        return Alignment()
    at = len(ids) // 2
    changed = [*ids[:at], others[0], *ids[at + 1 :]]
    moved = _change(cache.states(runtime, ids, _PLAIN), cache.states(runtime, changed, _PLAIN))
    first = int((moved > _MOVED * moved.max()).nonzero()[0]) if float(moved.max()) > 0 else at
    alone = [cache.states(runtime, [token], _PLAIN) for token in (ids[at], others[0])]
    return Alignment(first - at, constant_first=bool((_change(*alone) < 1e-3).all()))


def _change(a: Tensor, b: Tensor) -> Tensor:
    """Relative change of each row."""
    change: Tensor = (a - b).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-12)
    return change
