"""The result of an evaluation: cells, paired comparisons, and their JSON and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from backend.errors import InputError
from backend.metrics import Metrics, SlotRow, decoded_right, measure
from backend.statistics import NonInferiority, mcnemar_p, non_inferiority, wilson
from backend.store import Row, Run, Store

Key = tuple[str, bool, bool]  # runtime, normalize, lora


@dataclass(frozen=True, slots=True)
class Cell:
    """One runtime under one pair of toggles."""

    runtime: str
    normalize: bool
    lora: bool
    metrics: Metrics
    ci95: tuple[float, float] | None  # of exact match; None where no slot is present


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate against the baseline under the same toggles, over slots present in gold."""

    baseline: str
    candidate: str
    normalize: bool
    lora: bool
    regressions: int
    improvements: int
    p: float  # exact McNemar
    comparison: NonInferiority


@dataclass(frozen=True, slots=True)
class Report:
    """All cells and pairs of a run."""

    run: Run
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
        InputError: no such run or baseline, no rows yet, or cells that hold different slots.
    """
    found = store.run(run)
    names = list(found.settings["runtimes"])
    chosen = baseline or names[0]
    if chosen not in names:
        raise InputError("The baseline is not in this run", found=chosen, remedy=f"Choose one of: {', '.join(names)}.")
    cells, right, examples = _count(store, run, names)
    pairs = [
        _pair(right[chosen, *toggles], right[name, *toggles], chosen, (name, *toggles), margin)
        for name, *rest in sorted(cells, key=lambda key: names.index(key[0]))
        if name != chosen and (chosen, *(toggles := (rest[0], rest[1]))) in right
    ]
    made = [_cell(key, cells[key]) for key in sorted(cells, key=lambda key: (names.index(key[0]), key[1], not key[2]))]
    return Report(found, len(examples), tuple(made), tuple(pair for pair in pairs if pair is not None))


def toggles_text(normalize: bool, lora: bool) -> str:
    """Return both toggles in words."""
    return f"L2 {'on' if normalize else 'off'}, LoRA {'on' if lora else 'off'}"


def slot_row(row: Row) -> SlotRow:
    """Return what counting needs of a stored row."""
    return SlotRow(row.gold_present, row.present, row.tokens_equal, row.value, row.gold_decoded, row.gold_raw)


def _count(
    store: Store, run: int, names: Sequence[str]
) -> tuple[dict[Key, Metrics], dict[Key, dict[tuple[str, str], bool]], set[str]]:
    cells: dict[Key, Metrics] = {}
    right: dict[Key, dict[tuple[str, str], bool]] = {}
    examples: set[str] = set()
    for name in names:
        for normalize in (False, True):
            for lora in (True, False):
                hits: dict[tuple[str, str], bool] = {}
                where = ("AND runtime = ? AND normalize = ? AND lora = ?", (name, int(normalize), int(lora)))
                rows = store.rows(run, where=where[0], values=where[1])
                try:
                    cells[name, normalize, lora] = measure(_noted(rows, hits, examples))
                except InputError:
                    continue  # a cell that was not asked for, or not reached yet
                right[name, normalize, lora] = hits
    if not cells:
        raise InputError(f"Run {run} has no rows yet", remedy="Wait for its first batch.")
    return cells, right, examples


def _noted(rows: Iterable[Row], hits: dict[tuple[str, str], bool], examples: set[str]) -> Iterable[SlotRow]:
    for row in rows:
        examples.add(row.example)
        counted = slot_row(row)
        if row.gold_present:
            hits[row.example, row.slot] = decoded_right(counted)
        yield counted


def _cell(key: Key, metrics: Metrics) -> Cell:
    return Cell(*key, metrics, wilson(metrics.right, metrics.n_present) if metrics.n_present else None)


def _pair(
    base: dict[tuple[str, str], bool], other: dict[tuple[str, str], bool], baseline: str, key: Key, margin: float
) -> Pair | None:
    """Join by example and slot; while a run is going on, only what both have."""
    shared = base.keys() & other.keys()
    if not shared:
        return None
    regressions = sum(base[at] and not other[at] for at in shared)
    improvements = sum(other[at] and not base[at] for at in shared)
    comparison = non_inferiority(regressions, improvements, len(shared), margin=margin)
    return Pair(baseline, *key, regressions, improvements, mcnemar_p(regressions, improvements), comparison)


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
    c = pair.comparison
    return {
        "baseline": pair.baseline,
        "candidate": pair.candidate,
        "normalize": pair.normalize,
        "lora": pair.lora,
        "regressions": pair.regressions,
        "improvements": pair.improvements,
        "mcnemar_p": pair.p,
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
        c = pair.comparison
        needed = f", about {c.n_needed} slots needed" if c.n_needed else ""
        toggles = toggles_text(pair.normalize, pair.lora)
        lines.append(
            f"{pair.candidate} against {pair.baseline} ({toggles}): {100 * c.delta:+.2f} points, {pair.regressions} "
            f"regressions, {pair.improvements} improvements, McNemar p {pair.p:.3g}; no worse than "
            f"{100 * c.margin:g} points at 95 %: {c.verdict}{needed}"
        )
    return "\n".join(lines)


def as_html(report: Report) -> str:
    """Return one file with a chart and both tables, which needs nothing from elsewhere."""
    import plotly.graph_objects as go

    drawn = [cell for cell in report.cells if cell.metrics.decoded is not None and cell.ci95 is not None]
    figure = go.Figure()
    figure.add_bar(
        x=[f"{c.runtime}<br>{toggles_text(c.normalize, c.lora)}" for c in drawn],
        y=[100 * (c.metrics.decoded or 0) for c in drawn],
        error_y={
            "array": [100 * (c.ci95[1] - (c.metrics.decoded or 0)) for c in drawn if c.ci95],
            "arrayminus": [100 * ((c.metrics.decoded or 0) - c.ci95[0]) for c in drawn if c.ci95],
        },
    )
    figure.update_layout(yaxis={"title": "exact match, %", "range": [0, 100]}, template="plotly_white")
    chart = figure.to_html(full_html=False, include_plotlyjs="inline")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Probe Parity evaluation</title>"
        "<style>body{font:16px system-ui;max-width:70rem;margin:2rem auto;padding:0 1rem}pre{overflow:auto}</style>"
        f"<h1>Run {report.run.id}: {escape(str(report.run.settings['dataset']).rsplit('/', 1)[-1])}</h1>"
        f"<p>{report.n_examples} examples; dataset {escape(report.run.fingerprint['dataset'][:16])}, "
        f"{escape(report.run.fingerprint['versions'])}</p>{chart}<pre>{escape(as_text(report))}</pre></html>"
    )
