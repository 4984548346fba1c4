"""`python -m backend evaluate`: exact-match tables; exit code 3 when a loss cannot be ruled out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.dataset import Format
from backend.errors import BackendError, CheckFailed, InputError, PrerequisiteError
from backend.evaluation import Progress, begin, carry_on, check_resumable
from backend.flips import cell_pair
from backend.plan import Plan
from backend.pool import Pool
from backend.report import Report, as_json, as_text, make_report
from backend.report_html import as_html
from backend.slices import By, Slice, make_slices
from backend.statistics import Verdict
from backend.store import Store
from backend.store_path import default_store


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("evaluate", help="measure exact match on a dataset")
    shared.add_bundle(parser)
    shared.add_runtimes(parser)
    shared.add_dataset(parser)
    parser.add_argument("--matrix", action="store_true", help="both toggles on and off, not only LoRA on and L2 off")
    parser.add_argument("--store", type=Path, default=default_store(), help="SQLite file for rows")
    parser.add_argument("--resume", type=int, metavar="RUN", help="go on with a run that was stopped")
    parser.add_argument("--baseline", metavar="NAME", help="default: the first runtime")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="fail unless no runtime loses more, at 95 %%")
    parser.add_argument("--slices", choices=[by.name.lower() for by in By], help="also exact match by what slots share")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, and judge; raises `PrerequisiteError` for a run that somebody paused or cancelled."""
    with Store(arguments.store) as store, Pool() as pool:
        number, plan = _resumed(store, arguments) if arguments.resume is not None else _new(store, arguments)
        _take_over(store, number)
        try:
            state = carry_on(store, number, plan, pool.get, report=_show)
        except BackendError as error:
            with suppress(PrerequisiteError):  # a disk that is full takes no message either
                store.update(number, state="failed", pid=None, message=str(error))
            raise
        if state != "finished":
            raise PrerequisiteError(f"Run {number} is {state}", remedy=f"Go on with --resume {number}.")
        margin = arguments.max_drop if arguments.max_drop is not None else 1.0
        report = make_report(store, number, baseline=arguments.baseline, margin=margin / 100)
        page = as_html(store, report) if arguments.html is not None else ""
        sliced = _slices(store, report, By[arguments.slices.upper()]) if arguments.slices else {}
    if arguments.html is not None:
        arguments.html.write_text(page, encoding="utf-8")
    if arguments.json:
        content = as_json(report)
        if sliced:
            content["slices"] = {name: [asdict(one) for one in found] for name, found in sliced.items()}
        print(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        print("\n".join([as_text(report), *_slice_lines(sliced)]))
    asked = [pair for pair in report.pairs if pair.lora and not pair.normalize]
    failed = arguments.max_drop is not None and any(p.flipped.comparison.verdict is not Verdict.YES for p in asked)
    return CheckFailed.exit_code if failed else 0


def _slices(store: Store, report: Report, by: By) -> dict[str, list[Slice]]:
    """Return the slices of each runtime as the probe was trained, against the baseline; the baseline's against itself."""
    names = dict.fromkeys(cell.runtime for cell in report.cells)
    baseline = next(iter(names))
    trained = (False, True)
    return {
        name: make_slices(store, cell_pair(store, report.run.id, baseline, name, toggles=trained), by=by) for name in names
    }


def _slice_lines(sliced: Mapping[str, Sequence[Slice]]) -> Iterator[str]:
    for name, found in sliced.items():
        yield f"{name}, the most damaged first: exact match (95 % interval), baseline, regressions, improvements, n"
        for one in found:
            low, high = one.ci95
            yield (
                f"  {one.name}: {100 * one.exact_match:.2f} % ({100 * low:.2f} - {100 * high:.2f}), "
                f"{100 * one.baseline:.2f} %, {one.regressions}, {one.improvements}, {one.n}"
            )


def _take_over(store: Store, run: int) -> None:
    """Note that this process runs it; what somebody asked since the app started this process stays asked."""
    found = store.run(run)
    started_by_app = found.state == "running" and found.pid in (None, os.getpid())
    store.update(run, state="running", pid=os.getpid(), message="", wanted=found.wanted if started_by_app else "run")


def _new(store: Store, arguments: argparse.Namespace) -> tuple[int, Plan]:
    bundle = load_bundle(arguments.bundle)
    both = (False, True) if arguments.matrix else (False,)
    plan = Plan(
        bundle=bundle,
        specs=tuple(shared.chosen(bundle, arguments.runtime)),
        loras=(True, False) if arguments.matrix else (True,),
        normalizes=both,
        dataset=shared.dataset_of(bundle, arguments.dataset),
        format=Format(arguments.format) if arguments.format else None,
        limit=arguments.limit,
        skip_bad=arguments.skip_bad,
    )
    if arguments.baseline is not None and arguments.baseline not in [spec.name for spec in plan.specs]:
        raise InputError("The baseline is not evaluated", found=arguments.baseline, remedy="Add it with --runtime.")
    return begin(store, plan), plan


def _resumed(store: Store, arguments: argparse.Namespace) -> tuple[int, Plan]:
    plan = Plan.from_settings(store.run(arguments.resume).settings)
    check_resumable(store, arguments.resume, plan)
    return arguments.resume, plan


def _show(progress: Progress) -> None:
    left = f", {progress.left_s:.0f} s left" if progress.left_s is not None else ""
    print(f"\rprompt {progress.done} of {progress.total} ({progress.label}){left}    ", end="", file=sys.stderr, flush=True)
    if progress.done == progress.total:
        print(file=sys.stderr)
