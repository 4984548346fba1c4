"""The result of an evaluation: cells and paired comparisons, as values, JSON and text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.errors import InputError
from backend.metrics import Counts, Metrics, metrics_of
from backend.statistics import NonInferiority, mcnemar_p, non_inferiority, wilson
from backend.store import Run, Store
from backend.store_schema import CellKey


@dataclass(frozen=True, slots=True)
class Cell:
    """One runtime under one pair of toggles."""

    runtime: str
    normalize: bool
    lora: bool
    metrics: Metrics
    ci95: tuple[float, float] | None  # of exact match; None where no slot is present


@dataclass(frozen=True, slots=True)
class Flipped:
    """A paired comparison over slots present in gold."""

    regressions: int
    improvements: int
    p: float  # exact McNemar
    comparison: NonInferiority


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate against the baseline under the same toggles."""

    baseline: str
    candidate: str
    normalize: bool
    lora: bool
    flipped: Flipped


@dataclass(frozen=True, slots=True)
class Report:
    """All cells and pairs of a run."""

    run: Run
    baseline: str  # runtime that the others are compared with
    n_examples: int
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]


def make_report(store: Store, run: int, *, baseline: str | None = None, margin: float = 0.01) -> Report:
    """Count a run's rows.

    Args:
        store: where the run is.
        run: its number.
        baseline: runtime to compare with; default the first of the run.
        margin: acceptable loss, as a share.

    Raises:
        InputError: no such run or baseline, or no rows yet.
    """
    found = store.run(run)
    names = list(found.settings["runtimes"])
    chosen = baseline or names[0]
    if chosen not in names:
        raise InputError("The baseline is not in this run", found=chosen, remedy=f"Choose one of: {', '.join(names)}.")
    names.sort(key=lambda name: name != chosen)  # the baseline leftmost, the others as they were
    cells, ids = _count(store, run), store.cells(run)
    order = sorted(cells, key=lambda key: (names.index(key.runtime), key.normalize, not key.lora))
    pairs = []
    for key in order:
        base = key._replace(runtime=chosen)
        if key != base and base in cells:
            flipped = compare_cells(store, ids[base], ids[key], margin=margin)
            if flipped is not None:
                pairs.append(Pair(chosen, *key, flipped))
    n_examples = store.query("SELECT COUNT(*) FROM examples WHERE run = ?", (run,))[0][0]
    return Report(found, chosen, n_examples, tuple(_cell(key, cells[key]) for key in order), tuple(pairs))


def toggles_text(normalize: bool, lora: bool) -> str:
    """Return both toggles in words."""
    return f"L2 {'on' if normalize else 'off'}, LoRA {'on' if lora else 'off'}"


def _count(store: Store, run: int) -> dict[CellKey, Metrics]:
    """Count every cell that has rows."""
    found = {}
    for key, cell in store.cells(run).items():
        counts = store.query(_COUNT, (cell,))[0]
        if counts[0]:
            found[key] = metrics_of(Counts(*counts))
    if not found:
        raise InputError(f"Run {run} has no rows yet", remedy="Wait for its first batch.")
    return found


# in the order of the fields of Counts
_COUNT = """SELECT COUNT(*), SUM(present = gold_present), SUM(present), SUM(right), SUM(gold_present),
  SUM(gold_present AND present), SUM(tokens_equal), SUM(gold_present AND right), SUM(normalized_equal), SUM(raw_equal),
  SUM(oracle_equal), SUM(f1) FROM answers WHERE cell = ?"""
# slots present in gold that both cells have: while a run is going on, one may be ahead
_PAIR = """SELECT SUM(b.right AND NOT c.right), SUM(c.right AND NOT b.right), COUNT(*)
  FROM answers b JOIN answers c ON c.number = b.number AND c.slot = b.slot
  WHERE b.cell = ? AND c.cell = ? AND b.gold_present"""


def _cell(key: CellKey, metrics: Metrics) -> Cell:
    return Cell(*key, metrics, wilson(metrics.right, metrics.n_present) if metrics.n_present else None)


def compare_cells(store: Store, baseline: int, candidate: int, *, margin: float) -> Flipped | None:
    """Compare two cells, of one run or of two on the same dataset; None while they share no slot present in gold.

    Args:
        store: where both are.
        baseline: id of a cell.
        candidate: id of the other.
        margin: acceptable loss, as a share.
    """
    regressions, improvements, n = store.query(_PAIR, (baseline, candidate))[0]
    if not n:
        return None
    comparison = non_inferiority(regressions, improvements, n, margin=margin)
    return Flipped(regressions, improvements, mcnemar_p(regressions, improvements), comparison)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as the command line prints it; shares from 0 to 1."""
    first = report.cells[0].metrics
    return {
        "run": report.run.id,
        "state": report.run.state,
        "dataset": {
            "name": str(report.run.settings["dataset"]).rsplit("/", 1)[-1],
            "sha256": report.run.fingerprint["dataset"],
            "n_examples": report.n_examples,
            "n_slots": first.n_slots,
            "n_present": first.n_present,
            "n_skipped": report.run.settings["skipped"]["count"],
        },
        "cells": [_cell_json(cell) for cell in report.cells],
        "pairs": [_pair_json(pair) for pair in report.pairs],
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    m = cell.metrics
    return {
        "runtime": cell.runtime,
        "normalize": cell.normalize,
        "lora": cell.lora,
        "exact_match": {"tokens": m.tokens, "decoded": m.decoded, "normalized": m.normalized, "raw": m.raw},
        "oracle_raw": m.oracle_raw,
        "f1": m.f1,
        "presence_accuracy": m.presence_accuracy,
        "presence_precision": m.presence_precision,
        "presence_recall": m.presence_recall,
        "all_slot_accuracy": m.all_slot_accuracy,
        "n_present": m.n_present,
        "n_slots": m.n_slots,
        "ci95": list(cell.ci95) if cell.ci95 else None,
    }


def _pair_json(pair: Pair) -> dict[str, Any]:
    c = pair.flipped.comparison
    return {
        "baseline": pair.baseline,
        "candidate": pair.candidate,
        "normalize": pair.normalize,
        "lora": pair.lora,
        "regressions": pair.flipped.regressions,
        "improvements": pair.flipped.improvements,
        "mcnemar_p": pair.flipped.p,
        "delta_points": 100 * c.delta,
        "lower_points": 100 * c.lower,
        "margin_points": 100 * c.margin,
        "non_inferior": str(c.verdict),
        "n": c.n,
        "n_needed": c.n_needed,
    }


def as_text(report: Report) -> str:
    """Return the tables for a terminal."""
    lines = ["runtime              L2   LoRA  decoded  tokens  normal.  raw     F1      presence  95 % interval   n"]
    for cell in report.cells:
        m = cell.metrics
        low, high = cell.ci95 or (float("nan"), float("nan"))
        shares = [m.decoded, m.tokens, m.normalized, m.raw, m.f1, m.presence_accuracy]
        shown = "  ".join(f"{100 * s:6.2f}" if s is not None else "     -" for s in shares)
        toggles = f"{'on' if cell.normalize else 'off':4s} {'on' if cell.lora else 'off':4s}"
        lines.append(f"{cell.runtime:20s} {toggles} {shown}   {100 * low:5.2f} - {100 * high:5.2f}  {m.n_present}")
    for pair in report.pairs:
        title = f"{pair.candidate} against {pair.baseline} ({toggles_text(pair.normalize, pair.lora)})"
        lines.append(f"{title}: {flipped_text(pair.flipped)}")
    return "\n".join(lines)


def flipped_text(flipped: Flipped) -> str:
    """Return a paired comparison in one line."""
    c = flipped.comparison
    return (
        f"{100 * c.delta:+.2f} points, {flipped.regressions} regressions, {flipped.improvements} improvements, "
        f"McNemar p {flipped.p:.3g}; {margin_text(c.margin)} at 95 %: {verdict_text(c)}"
    )


def margin_text(margin: float) -> str:
    """Return what is tested: a loss of no more than ``margin``, a share."""
    return f"no worse than {100 * margin:g} point{'' if margin == 0.01 else 's'}"


def verdict_text(comparison: NonInferiority) -> str:
    """Return the verdict, and about how many slots would settle it where it is open."""
    # an estimate from few pairs: more than two digits would pretend to more
    needed = f", about {float(f'{comparison.n_needed:.2g}'):,.0f} slots needed" if comparison.n_needed else ""
    return f"{comparison.verdict}{needed}"
