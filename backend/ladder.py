"""From baseline to candidate one factor at a time, and each factor's share where their order matters.

States are put together on the CPU from what was computed once: ``plain + effect of LoRA``, each from either arm. The last
step is the candidate exactly as it answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations
from math import factorial
from typing import TYPE_CHECKING, TypeVar

from backend.arms import PLAIN, Arm, States, states_of
from backend.deployment_faults import ADAPTER_CAUSES, Faults
from backend.diagnosis_types import LadderStep, SlotShares
from backend.errors import BackendError
from backend.file_faults import is_quantized
from backend.norms import normalize, token_norms
from backend.probe import Decoding, Probe, SlotPrediction
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.state_cache import StateCache

if TYPE_CHECKING:
    from torch import Tensor

LORA, NORMALIZATION, DECODING, GOLD = "LoRA", "normalisation", "decoding", "gold comparison"
Gold = Mapping[str, tuple[str, str]]  # slot to (text of the gold tokens, raw label); a slot not named is absent
_Factors = frozenset[str]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Ladder:
    """The arms of one prompt and the runtimes in between. ``factors`` are those that differ, in the order of the steps."""

    probe: Probe
    prompt: Prompt
    baseline: Arm
    candidate: Arm
    faults: Faults
    others: Sequence[Runtime]
    cache: StateCache

    @cached_property
    def runtime_factors(self) -> tuple[str, ...]:
        """Return what separates the runtimes, joined where no runtime stands in between."""
        a, b = self.baseline.runtime.spec, self.candidate.runtime.spec
        differ = _differences(a, b)
        if not differ:
            return ("serving",) if self._unnamed_states else ()
        paths = [self._path(order) for order in permutations(differ)]
        return max(paths, key=len)  # the first of equals: engine, dtype, quantisation in the order of the issue

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """Return all factors that change answers."""
        a, b = self.baseline, self.candidate
        found = [*self.runtime_factors]
        causes = {finding.cause for finding in self.faults.findings}
        if a.options.lora and self._has_effect and (not b.options.lora or causes & ADAPTER_CAUSES):
            found.append(LORA)
        if a.options.normalize != b.options.normalize or self.faults.unit:
            found.append(NORMALIZATION)
        if a.decoding != b.decoding:
            found.append(DECODING)
        return tuple(found)

    def steps(self, gold: Gold | None) -> tuple[LadderStep, ...]:
        """Return the baseline, then one step a factor, then how the answer is compared with gold."""
        changed: _Factors = frozenset()
        stages = [("baseline", self.answers(changed), False)]
        for factor in self.factors:
            changed |= {factor}
            stages.append((factor, self.answers(changed), False))
        if gold is not None and any(decoded != raw for decoded, raw in gold.values()):
            stages.append((GOLD, stages[-1][1], True))
        steps: list[LadderStep] = []
        for factor, slots, raw in stages:
            right = tuple(None if gold is None else _right(slot, gold, raw=raw) for slot in slots)
            before = steps[-1] if steps else LadderStep("", slots, right, ())
            pairs = zip(before.slots, slots, before.right, right, strict=True)
            moved = tuple(b.slot for a, b, was, now in pairs if a.value != b.value or (factor == GOLD and was != now))
            steps.append(LadderStep(factor, slots, right, moved))
        return tuple(steps)

    def shares(self) -> tuple[SlotShares, ...]:
        """Return exact Shapley values of "the answer is not the baseline's", for the slots where it is not."""
        players = self._players()
        answers = {taken: self.answers(frozenset().union(*taken)) for taken in _subsets(players)}
        found = []
        for index, slot in enumerate(answers[frozenset()]):
            worth = {taken: slots[index].value != slot.value for taken, slots in answers.items()}
            if worth[frozenset(players)]:
                shares = {", ".join(sorted(p, key=self.factors.index)): _shapley(p, players, worth) for p in players}
                found.append(SlotShares(slot.slot, tuple(sorted(shares.items(), key=lambda pair: -pair[1]))))
        return tuple(found)

    def _players(self) -> tuple[_Factors, ...]:
        """Return factors that can be changed in any order; a runtime's are one where a runtime in between is not live."""
        path = self.runtime_factors
        rest = tuple(frozenset({factor}) for factor in self.factors if factor not in path)
        inner = [taken for taken in _subsets(path) if 0 < len(taken) < len(path)]
        if all(self._vertex(taken) is not None for taken in inner):
            return (*(frozenset({factor}) for factor in path), *rest)
        return (frozenset(path), *rest)

    def answers(self, changed: _Factors) -> tuple[SlotPrediction, ...]:
        """Return predictions with these factors as the candidate has them, the others as the baseline does."""
        arm = self.candidate if DECODING in changed else self.baseline
        return self._decoded(self._states(changed), arm.decoding)

    def _decoded(self, states: Tensor, decoding: Decoding) -> tuple[SlotPrediction, ...]:
        return self.probe.predict(self.prompt, states, decoding=decoding)

    def _states(self, changed: _Factors) -> Tensor:
        if changed | {DECODING} == {*self.factors, DECODING}:
            return self._last.used
        if not changed - {DECODING}:
            return self._first.used
        runtime = self._vertex(changed & frozenset(self.runtime_factors)) or self.candidate.runtime
        plain, effect = self._parts(runtime, faulty_lora=LORA in changed)
        option = self.candidate if NORMALIZATION in changed else self.baseline
        on = option.options.normalize or (NORMALIZATION in changed and self.faults.unit)
        return normalize(plain + effect) if on else plain + effect

    def _parts(self, runtime: Runtime, *, faulty_lora: bool) -> tuple[Tensor, Tensor]:
        """Return states without LoRA and what LoRA adds: the candidate's effect where it is the factor, else its own."""
        a, b = self._first, self._last_raw
        theirs = b.raw - b.plain
        if LORA not in self.factors:
            states = b if runtime is self.candidate.runtime else self._raw_of(runtime)
            return states.plain, states.raw - states.plain
        if faulty_lora:
            plain = b.plain if runtime is self.candidate.runtime else self._raw_of(runtime).plain
            return plain, theirs
        if runtime is not self.candidate.runtime:
            states = self._raw_of(runtime)
            return states.plain, states.raw - states.plain
        if not self.candidate.options.lora and runtime.info.has_adapter:  # left out on purpose: it can be asked for
            on = self.cache.states(runtime, self.prompt.ids, ForwardOptions(lora=True))
            return b.plain, self._denormalized(on, a.raw) - b.plain
        return b.plain, a.raw - a.plain

    def _raw_of(self, runtime: Runtime) -> States:
        lora = self.baseline.options.lora
        return states_of(Arm(runtime, ForwardOptions(lora=lora)), self.prompt.ids, self.cache)

    @cached_property
    def _first(self) -> States:
        return states_of(self.baseline, self.prompt.ids, self.cache)

    @cached_property
    def _last(self) -> States:
        return states_of(self.candidate, self.prompt.ids, self.cache)

    @cached_property
    def _last_raw(self) -> States:
        """The candidate's states with the baseline's norms, where it normalises unasked."""
        if not self.faults.unit:
            return self._last
        plain = self.cache.states(self.baseline.runtime, self.prompt.ids, PLAIN)
        raw = self._first.raw if self.candidate.options.lora else plain
        return States(self._last.used, self._denormalized(self._last.raw, raw), self._denormalized(self._last.plain, plain))

    def _denormalized(self, states: Tensor, like: Tensor) -> Tensor:
        return states * token_norms(like)[:, None] if self.faults.unit else states

    @property
    def _has_effect(self) -> bool:
        return self.baseline.runtime.info.has_adapter

    @property
    def _unnamed_states(self) -> bool:
        """Tell whether runtimes of equal specs give other states before LoRA and normalisation."""
        a, b = self._first, self._last_raw
        if a.plain.shape != b.plain.shape:
            return True
        return bool((a.plain - b.plain).norm() > 1e-3 * a.plain.norm()) or (
            not any(finding.cause in ADAPTER_CAUSES for finding in self.faults.findings)
            and self.candidate.options.lora
            and bool((a.raw - b.raw).norm() > 1e-3 * a.raw.norm())
        )

    def _vertex(self, changed: _Factors) -> Runtime | None:
        """Return the runtime that has these of the runtime factors as the candidate, if there is one."""
        if not changed:
            return self.baseline.runtime
        if changed == frozenset(self.runtime_factors):
            return self.candidate.runtime
        return self._between([part for joined in changed for part in joined.split(", ")])

    def _path(self, order: Sequence[str]) -> tuple[str, ...]:
        """Join the factors of an order between which no live runtime stands."""
        path: list[str] = []
        pending: list[str] = []
        for place, factor in enumerate(order):
            pending.append(factor)
            if place == len(order) - 1 or self._between(order[: place + 1]) is not None:
                path.append(", ".join(pending))
                pending = []
        return tuple(path)

    def _between(self, changed: Sequence[str]) -> Runtime | None:
        """Return a live runtime that has these factors as the candidate and the others as the baseline, and answers."""
        a, b = self.baseline.runtime.spec, self.candidate.runtime.spec
        wanted = a
        for factor in changed:
            wanted = _with(wanted, b, factor)
        for runtime in self.others:
            if _identity(runtime.spec) != _identity(wanted):
                continue
            try:
                self._raw_of(runtime)
            except BackendError:
                continue  # a step less; the runtime's own lane and health say why
            return runtime
        return None


def _identity(spec: RuntimeSpec) -> tuple[object, ...]:
    return spec.engine, spec.dtype, spec.model, spec.adapter


def _weights_factor(a: RuntimeSpec, b: RuntimeSpec) -> str:
    if a.model == b.model:
        return "adapter files"
    return "quantisation" if is_quantized(b.model) or is_quantized(a.model) else "base model"


def _differences(a: RuntimeSpec, b: RuntimeSpec) -> list[str]:
    found = [name for name in ("engine", "dtype") if getattr(a, name) != getattr(b, name)]
    return [*found, _weights_factor(a, b)] if (a.model, a.adapter) != (b.model, b.adapter) else found


def _with(spec: RuntimeSpec, candidate: RuntimeSpec, factor: str) -> RuntimeSpec:
    if factor == "engine":
        return replace(spec, engine=candidate.engine)
    if factor == "dtype":
        return replace(spec, dtype=candidate.dtype)
    return replace(spec, model=candidate.model, adapter=candidate.adapter)


def _right(slot: SlotPrediction, gold: Gold, *, raw: bool) -> bool:
    decoded, label = gold.get(slot.slot, ("", ""))
    return (slot.value or "") == (label if raw else decoded)


def _shapley(player: _Factors, players: Sequence[_Factors], worth: Mapping[frozenset[_Factors], bool]) -> float:
    n = len(players)
    return sum(
        factorial(len(rest)) * factorial(n - len(rest) - 1) / factorial(n) * (worth[rest | {player}] - worth[rest])
        for rest in _subsets([other for other in players if other != player])
    )


def _subsets(items: Sequence[_T]) -> Iterator[frozenset[_T]]:
    return (frozenset(chosen) for k in range(len(items) + 1) for chosen in combinations(items, k))
