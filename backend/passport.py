"""The deployment passport: everything a decision about a deployment rests on, as one value.

It joins a stored evaluation with what the live runtimes say now: health checks, the cause of the regressions, and answers
to compare with later (`backend.recheck`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.bundle import Bundle
from backend.check_types import Check
from backend.dataset import file_sha256
from backend.diagnosis import Arm, diagnose
from backend.diagnosis_types import Cause
from backend.errors import BackendError, InputError
from backend.fingerprint import fingerprint
from backend.flips import Flip as StoredFlip
from backend.flips import Show, cell_pair, list_flips, measure_movement
from backend.health import check_spec
from backend.pool import Pool
from backend.probe import Probe
from backend.report import as_json, make_report, margin_text
from backend.runtimes.base import Engine, ForwardOptions, RuntimeSpec
from backend.runtimes.vllm_compat import installed_spelling, serve_line
from backend.schema import load_schemas
from backend.scoring import load_examples, predict_all
from backend.store import Row, Run, Store

N_ANSWERS = 24  # examples whose answers are kept
MAX_CHANGED = 0.02  # share of kept answers that another machine's rounding may change
_N_VERDICTS = 5  # regressions that are diagnosed for each runtime
_N_FLIPS = 50  # that are listed


@dataclass(frozen=True, slots=True)
class Flip:
    """A slot that a runtime reads otherwise than the baseline; values are None where absent."""

    example: str
    function: str
    utterance: str
    slot: str
    gold: str | None
    baseline: str | None
    candidate: str | None
    kind: str  # regression, improvement, or other: both wrong
    near_tie: bool | None  # the baseline's margin is within what rounding moves


@dataclass(frozen=True, slots=True)
class Named:
    """The cause of one regression."""

    example: str
    slot: str
    cause: str
    confidence: float  # 0 to 1
    remedy: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a runtime read in one text; None is absent."""

    function: str
    utterance: str
    slots: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class RuntimePassport:
    """One runtime: how it is set up, what it was seen to do, and whether it may go out."""

    name: str
    flags: dict[str, Any]  # the resolved runtime specification
    device: str
    launch: str  # the line that serves it; empty where nothing is served
    checks: tuple[Check, ...]
    flips: tuple[Flip, ...]  # what rounding does not explain first, at most 50
    n_flips: int
    verdicts: tuple[Named, ...]
    answers: tuple[Answer, ...]
    reasons: tuple[str, ...]  # why it may not go out; empty: it may


@dataclass(frozen=True, slots=True)
class Passport:
    """A deployment at one point in time."""

    made: str  # UTC, ISO 8601
    bundle: str  # the folder, relative to the passport's
    versions: str
    files: dict[str, str]  # SHA-256 of every local file by its path in the bundle
    max_changed: float
    report: dict[str, Any]  # as `python -m backend evaluate --json` prints it
    runtimes: tuple[RuntimePassport, ...]


def make_passport(
    store: Store, run: int, bundle: Bundle, specs: Sequence[RuntimeSpec], pool: Pool, *, out: Path, margin: float = 0.01
) -> Passport:
    """Check every runtime now and join it with what a run measured.

    Args:
        store: where the run is.
        run: a finished run of this bundle, LoRA on and normalisation off among its cells.
        bundle: the bundle.
        specs: runtimes of that run to judge.
        pool: loads them.
        out: the folder the passport will be in.
        margin: acceptable loss against the baseline, as a share.

    Raises:
        InputError: no such run, not finished, of other files, or without the runtimes asked for.
        BackendError: as `make_report` does, or where the baseline cannot be loaded.
    """
    found = _run_of(store, run, bundle, specs)
    report = as_json(make_report(store, run, margin=margin))
    probe = bundle.load_probe()
    baseline = bundle.runtime(found.settings["runtimes"][0])
    runtimes = tuple(_judge(spec, baseline, bundle, probe, pool, report, store) for spec in specs)
    return Passport(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=os.path.relpath(bundle.folder.resolve(), out.resolve()),
        versions=found.fingerprint["versions"],
        files=bundle_files(bundle),
        max_changed=MAX_CHANGED,
        report=report,
        runtimes=runtimes,
    )


def bundle_files(bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of heads, schemas and every local checkpoint file, by path relative to the bundle."""
    models = [bundle.base, *(spec.model for spec in bundle.runtimes), *(s.adapter for s in bundle.runtimes if s.adapter)]
    folders = [Path(model) for model in dict.fromkeys(models) if Path(model).is_dir()]
    paths = [bundle.heads, bundle.schemas, *(path for folder in folders for path in sorted(folder.rglob("*")))]
    return {os.path.relpath(path, bundle.folder): file_sha256(path) for path in paths if path.is_file()}


def keep_answers(probe: Probe, bundle: Bundle, spec: RuntimeSpec, pool: Pool) -> tuple[Answer, ...]:
    """Ask a runtime the first examples of the evaluation set; raises as loading and `Runtime.forward` do."""
    examples, prompts = load_examples(bundle, probe.builder, limit=N_ANSWERS)
    found = predict_all(probe, pool.get(spec), prompts, ForwardOptions())
    return tuple(
        Answer(example.function, example.utterance, {slot.slot: slot.value for slot in slots})
        for example, slots in zip(examples, found, strict=True)
    )


def _run_of(store: Store, run: int, bundle: Bundle, specs: Sequence[RuntimeSpec]) -> Run:
    found = store.run(run)
    if found.state != "finished":
        raise InputError(f"Run {run} is {found.state}", remedy="A passport needs a finished run.")
    names = found.settings["runtimes"]
    missing = [spec.name for spec in specs if spec.name not in names]
    if missing:
        raise InputError(f"Run {run} has no {', '.join(missing)}", remedy=f"It has: {', '.join(names)}.")
    now = fingerprint(bundle, [bundle.runtime(name) for name in names], Path(found.settings["dataset"]))
    differs = [name for name in ("bundle", "runtimes", "dataset") if found.fingerprint[name] != now[name]]
    if differs:
        raise InputError(
            f"Run {run} measured something else", found=f"{' and '.join(differs)} differ", remedy="Evaluate once more."
        )
    return found


def _judge(
    spec: RuntimeSpec,
    baseline: RuntimeSpec,
    bundle: Bundle,
    probe: Probe,
    pool: Pool,
    report: dict[str, Any],
    store: Store,
) -> RuntimePassport:
    checks = check_spec(pool, bundle, probe, spec)
    reasons = [f"check {check.name}: {check.observed}" for check in checks if not check.passed]
    flips: tuple[Flip, ...] = ()
    worse: tuple[Flip, ...] = ()
    n_flips = 0
    if spec != baseline:
        flips, n_flips, worse = _pair_flips(store, report["run"], (baseline.name, spec.name))
    verdicts: list[Named] = []
    answers: tuple[Answer, ...] = ()
    device = ""
    try:
        device = pool.get(spec).info.device
        answers = keep_answers(probe, bundle, spec, pool)
        verdicts = _verdicts(worse, spec, baseline, bundle, probe, pool)
    except BackendError as error:
        reasons.append(str(error))
    reasons += _losses(report, spec.name)
    served = spec.engine is Engine.VLLM
    return RuntimePassport(
        name=spec.name,
        flags=asdict(spec),
        device=device,
        launch=serve_line(spec, installed_spelling()) if served else "",
        checks=tuple(checks),
        flips=flips,
        n_flips=n_flips,
        verdicts=tuple(verdicts),
        answers=answers,
        reasons=tuple(reasons),
    )


def _losses(report: dict[str, Any], name: str) -> list[str]:
    """Tell where a loss beyond the margin cannot be ruled out."""
    pairs = [p for p in report["pairs"] if p["candidate"] == name and p["lora"] and not p["normalize"]]
    return [
        f"{margin_text(p['margin_points'] / 100)}: {p['non_inferior']} ({p['delta_points']:+.2f} points, n = {p['n']})"
        for p in pairs
        if p["non_inferior"] != "yes"
    ]


def _pair_flips(store: Store, run: int, names: tuple[str, str]) -> tuple[tuple[Flip, ...], int, tuple[Flip, ...]]:
    """Return the first flips of a pair, how many there are, and the first regressions; unexplained ones lead."""
    pair = cell_pair(store, run, *names, toggles=(False, True))
    movement = measure_movement(store, pair)
    found = list_flips(store, run, pair, show=Show.DIFFERENT, movement=movement, limit=_N_FLIPS)
    worse = list_flips(store, run, pair, show=Show.REGRESSIONS, movement=movement, limit=_N_VERDICTS)
    return tuple(map(_flip, found.flips)), found.total, tuple(map(_flip, worse.flips))


def _flip(flip: StoredFlip) -> Flip:
    before, row = flip.baseline, flip.candidate
    gold = row.gold_decoded if row.gold_present else None
    kind = "regression" if before.right else "improvement" if row.right else "other"
    key = (row.example, row.function, row.utterance, row.slot)
    return Flip(*key, gold, _value(before), _value(row), kind, flip.near_tie)


def _value(row: Row) -> str | None:
    return row.value if row.present else None


def _verdicts(
    flips: Sequence[Flip], spec: RuntimeSpec, baseline: RuntimeSpec, bundle: Bundle, probe: Probe, pool: Pool
) -> list[Named]:
    schemas = load_schemas(bundle.schemas)
    named = []
    for flip in flips:
        prompt = probe.builder.build(schemas[flip.function], flip.utterance)
        arms = [Arm(pool.get(one), ForwardOptions()) for one in (baseline, spec)]
        for verdict in diagnose(probe, prompt, *arms).verdicts:
            if verdict.slot == flip.slot and verdict.cause is not Cause.NONE:
                named.append(Named(flip.example, flip.slot, str(verdict.cause), verdict.confidence, verdict.remedy))
    return named


def causes(runtime: RuntimePassport) -> list[tuple[str, int]]:
    """Return the named causes of a runtime's regressions, most frequent first."""
    return Counter(named.cause for named in runtime.verdicts).most_common()
