"""Examples through runtimes under toggles, row by row into a store; can be paused, cancelled, killed and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.bundle import Bundle, load_bundle
from backend.dataset import Example, Format, read_examples
from backend.errors import CheckFailed, InputError
from backend.fingerprint import fingerprint
from backend.norms import normalize, token_norms
from backend.probe import Probe, SlotPrediction
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.schema import FunctionSchema, load_schemas
from backend.scoring import slot_rows
from backend.store import Row, Store

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64  # examples in one transaction
_AGREE = 5e-3  # largest difference between the engine's normalised states and h / |h|


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evaluation runs."""

    bundle: Bundle
    specs: tuple[RuntimeSpec, ...]
    loras: tuple[bool, ...]
    normalizes: tuple[bool, ...]
    dataset: Path
    format: Format | None = None
    limit: int | None = None

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Plan:
        """Make the plan that ``settings`` describe; raises as `load_bundle` and `Bundle.runtime` do."""
        bundle = load_bundle(Path(settings["bundle"]))
        return cls(
            bundle=bundle,
            specs=tuple(bundle.runtime(name) for name in settings["runtimes"]),
            loras=tuple(settings["loras"]),
            normalizes=tuple(settings["normalizes"]),
            dataset=Path(settings["dataset"]),
            format=Format(settings["format"]) if settings["format"] else None,
            limit=settings["limit"],
        )

    def settings(self) -> dict[str, object]:
        """Return what a later process needs to make the same plan."""
        return {
            "bundle": str(self.bundle.folder),
            "runtimes": [spec.name for spec in self.specs],
            "loras": list(self.loras),
            "normalizes": list(self.normalizes),
            "dataset": str(self.dataset),
            "format": self.format and str(self.format),
            "limit": self.limit,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done: int  # batches
    total: int
    rate: float  # batches a second, of this process
    label: str

    @property
    def left_s(self) -> float | None:
        """Return the seconds left, once there is a rate."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class _Step:
    spec: RuntimeSpec
    lora: bool
    start: int  # first example of the batch


def begin(store: Store, plan: Plan) -> int:
    """Check the whole dataset and create the run; raises `InputError` for a bad row or an empty set."""
    n = sum(1 for _ in _examples(plan, load_schemas(plan.bundle.schemas)))
    if n == 0:
        raise InputError("Nothing to evaluate", found="no examples", remedy="Raise --limit, or use another set.")
    batches = -(-n // BATCH)
    prints = fingerprint(plan.bundle, plan.specs, plan.dataset)
    return store.create(prints, plan.settings(), total=batches * len(plan.specs) * len(plan.loras))


def check_resumable(store: Store, run: int, plan: Plan) -> None:
    """Refuse to go on where anything the rows depend on has changed.

    Raises:
        InputError: naming what differs.
    """
    then, now = store.run(run).fingerprint, fingerprint(plan.bundle, plan.specs, plan.dataset)
    differs = sorted(name for name in now if then.get(name) != now[name])
    if differs:
        raise InputError(
            f"Run {run} was made under other conditions",
            found=f"{' and '.join(differs)} differ",
            remedy="Start a new run; mixing both would compare nothing.",
        )


def carry_on(
    store: Store,
    run: int,
    plan: Plan,
    get: Callable[[RuntimeSpec], Runtime],
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> str:
    """Run the batches that are not in the store yet and return the state the run ended in.

    Raises:
        CheckFailed: if an engine's own normalisation is not ``h / |h|``; its normalised cells would be fiction.
        BackendError: as runtimes do; the run stays resumable.
    """
    schemas, probe = load_schemas(plan.bundle.schemas), plan.bundle.load_probe()
    examples = list(_examples(plan, schemas))
    prompts = probe.builder.build_many([(schemas[e.function], e.utterance) for e in examples])  # once for all runtimes
    done = store.run(run).done
    started, first = time.monotonic(), done
    checked: set[str] = set()
    for number, step in enumerate(_steps(plan, len(examples))):
        if number < done:
            continue
        if (stopped := _stopped(store, run)) is not None:
            return stopped
        runtime = get(step.spec)
        if True in plan.normalizes and step.spec.name not in checked:
            _check_normalization(runtime, prompts[0], lora=step.lora)
            checked.add(step.spec.name)
        chunk = slice(step.start, step.start + BATCH)
        rows = _batch(runtime, probe, examples[chunk], prompts[chunk], step.lora, plan.normalizes)
        rate = (number + 1 - first) / max(1e-9, time.monotonic() - started)
        store.append(run, rows, done=number + 1, rate=rate)
        report(Progress(number + 1, store.run(run).total, rate, f"{step.spec.name}, LoRA {'on' if step.lora else 'off'}"))
    store.update(run, state="finished", pid=None)
    return "finished"


def _examples(plan: Plan, schemas: dict[str, FunctionSchema]) -> Iterator[Example]:
    return islice(read_examples(plan.dataset, schemas, format=plan.format), plan.limit)


def _steps(plan: Plan, n: int) -> Iterator[_Step]:
    for spec in plan.specs:
        for lora in plan.loras:
            for start in range(0, n, BATCH):
                yield _Step(spec, lora, start)


def _stopped(store: Store, run: int) -> str | None:
    """Obey what somebody asked through the store."""
    wanted = store.run(run).wanted
    state = {"pause": "paused", "cancel": "cancelled"}.get(wanted)
    if state is not None:
        store.update(run, state=state, pid=None)
    return state


def _check_normalization(runtime: Runtime, prompt: Prompt, *, lora: bool) -> None:
    raw, engine = (runtime.forward([prompt.ids], ForwardOptions(normalize=n, lora=lora))[0] for n in (False, True))
    difference = float((normalize(raw) - engine.float()).abs().max())
    if not difference <= _AGREE:
        raise CheckFailed(
            f"{runtime.spec.name} does not normalise as h / |h|",
            found=f"largest difference {difference:.1e}",
            remedy="Run `python -m backend check`; evaluate without --matrix meanwhile.",
        )


def _batch(
    runtime: Runtime,
    probe: Probe,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    lora: bool,
    normalizes: Sequence[bool],
) -> list[Row]:
    states = runtime.forward([prompt.ids for prompt in prompts], ForwardOptions(lora=lora))
    norms = [token_norms(rows) for rows in states]
    rows: list[Row] = []
    for normalized in normalizes:
        used = [normalize(raw) for raw in states] if normalized else states
        predictions = probe.predict_batch(prompts, used)
        for example, prompt, slots, lengths in zip(examples, prompts, predictions, norms, strict=True):
            rows += _rows(example, prompt, slots, lengths, probe, (runtime.spec.name, normalized, lora))
    return rows


def _rows(
    example: Example,
    prompt: Prompt,
    slots: Sequence[SlotPrediction],
    norms: Tensor,
    probe: Probe,
    cell: tuple[str, bool, bool],
) -> Iterator[Row]:
    counted = slot_rows(example, prompt, slots, probe.builder)
    for row, slot, query in zip(counted, slots, prompt.query_positions, strict=True):
        yield Row(
            *cell,
            example=example.id,
            slot=slot.slot,
            function=example.function,
            **asdict(row),
            null_present=slot.null_logits[0],
            null_absent=slot.null_logits[1],
            start_margin=_finite(slot.start_margin),
            end_margin=_finite(slot.end_margin),
            query_norm=float(norms[query]),
            n_tokens=len(prompt.ids),
            utterance=example.utterance,
        )


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None
