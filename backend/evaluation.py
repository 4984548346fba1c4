"""Examples through runtimes under toggles, batch by batch into a store; can be paused, cancelled, killed and resumed.

The dataset streams: a window of examples is tokenised once, goes through every runtime with and without LoRA, and is
dropped. The order of work is a function of dataset and settings alone, so one number says how far a run has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from backend.dataset import Skipped, read_examples
from backend.errors import CheckFailed, InputError
from backend.fingerprint import fingerprint
from backend.memory import budget_bytes
from backend.norms import normalize
from backend.plan import Plan, share_passes
from backend.prompt import Prompt, PromptBuilder
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.runtimes.batching import token_budget_batches
from backend.schema import load_schemas
from backend.store import Store
from backend.store_schema import CellKey
from backend.windows import Window, answer_rows, make_window

BATCH = 64  # most examples in one transaction
TOKEN_BUDGET = 4096  # most padded tokens in one
WINDOW = 512  # examples in memory at a time; batches are longest first within one
_AGREE = 5e-3  # largest difference between the engine's normalised states and h / |h|


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done: int  # prompts, one for each runtime and LoRA setting
    total: int
    rate: float  # prompts a second, of this process
    label: str

    @property
    def left_s(self) -> float | None:
        """Return the seconds left, once there is a rate."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class _Step:
    """One batch of one runtime with or without LoRA."""

    spec: RuntimeSpec
    lora: bool
    window: Window
    batch: list[int]  # places in the window
    first_arm: bool  # of the whole run: it also stores the examples


def begin(store: Store, plan: Plan) -> int:
    """Check and tokenise the whole dataset, window by window, and create the run.

    Raises:
        InputError: a row that cannot be used, unless the plan skips them, or no row that can.
        BundleError: heads or tokenizer cannot be loaded.
    """
    skipped, builder = Skipped(), plan.bundle.load_probe().builder
    n = sum(len(window.examples) for window in read_windows(plan, builder, skipped=skipped))
    if n == 0:
        raise InputError("Nothing to evaluate", found="no examples", remedy="Raise --limit, or use another set.")
    settings = plan.settings() | {
        "passes": share_passes(plan.specs, budget_bytes()),
        "skipped": {"count": skipped.count, "reasons": [str(reason) for reason in skipped.reasons]},
    }
    prints = fingerprint(plan.bundle, plan.specs, plan.dataset)
    return store.create(prints, settings, total=n * len(plan.specs) * len(plan.loras), cells=plan.cells())


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
    probe, cells, found = plan.bundle.load_probe(), store.cells(run), store.run(run)
    done, first, started = found.done, found.done, time.monotonic()
    checked: set[str] = set()
    for step in _steps(plan, probe.builder, found.settings["passes"], found.total, done):
        if (stopped := _stopped(store, run)) is not None:
            return stopped
        runtime = get(step.spec)
        if True in plan.normalizes and step.spec.name not in checked:
            _check_normalization(runtime, step.window.prompts[step.batch[0]], lora=step.lora)
            checked.add(step.spec.name)
        prompts = [step.window.prompts[i] for i in step.batch]
        states = runtime.forward([prompt.ids for prompt in prompts], ForwardOptions(lora=step.lora))
        scores, answers = probe.score_batch(prompts, states), {}
        norms = scores.query_norms.tolist()
        for normalized in plan.normalizes:
            predictions = probe.predict_scored(prompts, scores.normalized() if normalized else scores)
            cell = cells[CellKey(step.spec.name, normalized, step.lora)]
            answers[cell] = answer_rows(step.window, step.batch, predictions, norms)
        now = done + len(step.batch)
        rate = (now - first) / max(1e-9, time.monotonic() - started)
        new = step.batch if step.first_arm else ()
        examples, labels = step.window.example_rows(new), step.window.label_rows(new)
        store.append(run, answers, examples=examples, labels=labels, done=(done, now), rate=rate)
        done = now
        report(Progress(done, found.total, rate, f"{step.spec.name}, LoRA {'on' if step.lora else 'off'}"))
    store.update(run, state="finished", pid=None)
    return "finished"


def read_windows(
    plan: Plan, builder: PromptBuilder, *, skipped: Skipped | None = None, before: int = 0
) -> Iterator[Window]:
    """Yield the dataset in windows; those before example number ``before`` are read, not tokenised, and left out.

    Raises:
        InputError: a row that cannot be used, unless the plan skips them; ``skipped`` then counts them.
    """
    schemas = load_schemas(plan.bundle.schemas)
    counted = (skipped or Skipped()) if plan.skip_bad else None
    examples = islice(read_examples(plan.dataset, schemas, format=plan.format, skipped=counted), plan.limit)
    start = 1
    while chunk := list(islice(examples, WINDOW)):
        # where rows are skipped, numbers depend on which of them the tokenizer refuses
        if plan.skip_bad or start + len(chunk) > before:
            window = make_window(chunk, schemas, builder, start=start, skipped=counted)
            start += len(window.examples)
            if start > before:
                yield window
        else:
            start += len(chunk)


def _steps(plan: Plan, builder: PromptBuilder, passes: Iterable[list[str]], total: int, done: int) -> Iterator[_Step]:
    """Yield the batches after the first ``done`` prompts, in the run's order."""
    specs = {spec.name: spec for spec in plan.specs}
    n = total // (len(plan.specs) * len(plan.loras))  # examples
    at = 0
    for number, names in enumerate(passes):
        arms = [(specs[name], lora) for name in names for lora in plan.loras]
        if at + n * len(arms) <= done:
            at += n * len(arms)
            continue
        before = max(0, done - at) // len(arms) + 1  # the first example that some arm has not seen
        for window in read_windows(plan, builder, before=before):
            reached = at + (window.start - 1) * len(arms)
            batches = list(token_budget_batches([len(p.ids) for p in window.prompts], budget=TOKEN_BUDGET, most=BATCH))
            for place, (spec, lora) in enumerate(arms):
                for batch in batches:
                    if reached >= done:
                        yield _Step(spec, lora, window, batch, first_arm=number == place == 0)
                    reached += len(batch)
        at += n * len(arms)


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
