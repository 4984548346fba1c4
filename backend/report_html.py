"""The result of an evaluation as one HTML file, which needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from backend.answers import answer_text
from backend.flips import Show, cell_pair, list_flips, measure_movement
from backend.raw_gap import raw_gap
from backend.report import Cell, Pair, Report, margin_text, toggles_text, verdict_text
from backend.report_figures import exact_match_bars, matrix
from backend.slices import By, make_slices
from backend.store import Row, Store

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SLICES = 8  # worst ones of each grouping
_FLIPS = 50  # of each candidate
_STYLE = """body{font:16px system-ui,sans-serif;max-width:82rem;margin:2rem auto;padding:0 1rem;
 color:#1b2733;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:14px;display:block;overflow-x:auto}
th,td{border-bottom:1px solid #d5dbe1;padding:.3rem .6rem;text-align:left;vertical-align:top;overflow-wrap:break-word}
th{white-space:nowrap}td{min-width:8.5rem;max-width:28rem}td.n{min-width:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}caption{text-align:left;padding:.3rem 0}"""


def as_html(store: Store, report: Report) -> str:
    """Return the page: plots, ladder, paired comparisons, slices, flips, and why raw labels score lower."""
    run = report.run
    name = escape(str(run.settings["dataset"]).rsplit("/", 1)[-1])
    skipped = run.settings["skipped"]["count"]
    left_out = f", {skipped} bad rows left out" if skipped else ""
    sections = [
        f"<h1>Run {run.id}: {name}</h1>",
        f"<p>{report.n_examples:,} examples{left_out}; dataset {escape(run.fingerprint['dataset'][:16])}, "
        f"{escape(run.fingerprint['versions'])}; {escape(run.state)}</p>",
        "<h2>Exact match</h2>",
        _plot(matrix(report), script=True),
        _plot(exact_match_bars(report)),
        "<h2>From token indices to the raw label</h2>",
        _ladder(report.cells),
        "<h2>Against the baseline</h2>",
        _pairs(report.pairs),
        _raw_gap(store, run.id),
        *(_candidate(store, run.id, pair) for pair in report.pairs if pair.lora and not pair.normalize),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Probe Parity, run {run.id}</title>'
        f"<style>{_STYLE}</style>{''.join(sections)}</html>"
    )


def _plot(figure: Figure, *, script: bool = False) -> str:
    figure.update_layout(template="plotly_white")
    return str(figure.to_html(full_html=False, include_plotlyjs="inline" if script else False))


def _ladder(cells: Sequence[Cell]) -> str:
    names = ("tokens", "decoded", "normalised", "raw", "best possible raw", "F1", "presence", "all slots")
    rows = []
    for cell in cells:
        m = cell.metrics
        shares = (m.tokens, m.decoded, m.normalized, m.raw, m.oracle_raw, m.f1, m.presence_accuracy, m.all_slot_accuracy)
        interval = f"{100 * cell.ci95[0]:.2f} to {100 * cell.ci95[1]:.2f}" if cell.ci95 else "-"
        toggles = toggles_text(cell.normalize, cell.lora)
        rows.append((cell.runtime, toggles, *map(_percent, shares), interval, m.n_present, m.n_slots))
    return _table(("runtime", "toggles", *names, "95 % of decoded", "n present", "n slots"), rows, texts=2)


def _pairs(pairs: Sequence[Pair]) -> str:
    rows = [
        (
            f"{p.candidate} against {p.baseline}",
            toggles_text(p.normalize, p.lora),
            f"{margin_text(p.flipped.comparison.margin)}: {verdict_text(p.flipped.comparison)}",
            f"{100 * p.flipped.comparison.delta:+.2f}",
            p.flipped.regressions,
            p.flipped.improvements,
            f"{p.flipped.p:.3g}",
            p.flipped.comparison.n,
        )
        for p in pairs
    ]
    names = ("candidate", "toggles", "at 95 %", "points", "regressions", "improvements", "McNemar p", "n")
    return _table(names, rows, texts=3) if rows else "<p>One runtime: nothing to compare.</p>"


def _raw_gap(store: Store, run: int) -> str:
    ways, differ, n = raw_gap(store, run)
    if not differ:
        return "<h2>Raw labels</h2><p>The text of the gold tokens is the label in every slot.</p>"
    rows = [(way.name, way.raw, way.decoded, way.example, way.n) for way in ways]
    return (
        "<h2>Why raw labels score lower</h2><p>A token may reach beyond the label, so that even the right tokens read "
        f"otherwise than the label: {differ:,} of {n:,} present slots ({100 * differ / n:.1f} %).</p>"
        + _table(("the tokens also hold", "label", "text of its tokens", "example", "slots"), rows, texts=4)
    )


def _candidate(store: Store, run: int, pair: Pair) -> str:
    cells = cell_pair(store, run, pair.baseline, pair.candidate, toggles=(pair.normalize, pair.lora))
    title = f"{pair.candidate} against {pair.baseline}, {toggles_text(pair.normalize, pair.lora)}"
    parts = [f"<h2>{escape(title)}</h2>"]
    for by in By:
        damaged = [
            (s.name, _percent(s.exact_match), f"{100 * s.ci95[0]:.1f} to {100 * s.ci95[1]:.1f}", _percent(s.baseline))
            + (s.regressions, s.improvements, s.n)
            for s in make_slices(store, cells, by=by)[:_SLICES]
        ]
        heads = (by.lower(), "exact match", "95 %", "baseline", "regressions", "improvements", "n")
        parts.append(_table(heads, damaged, texts=1, caption=f"By {by.lower()}, the most damaged first"))
    found = list_flips(store, run, cells, show=Show.DIFFERENT, movement=measure_movement(store, cells), limit=_FLIPS)
    rows = [
        (f.candidate.example, f"{f.candidate.function}.{f.candidate.slot}", f.candidate.utterance, _gold(f.candidate))
        + (_answer(f.baseline), _answer(f.candidate), "near tie" if f.near_tie else "unexplained", f"{f.margin:.3f}")
        for f in found.flips
    ]
    names = ("example", "slot", "utterance", "gold", "baseline", "candidate", "triage", "margin")
    caption = f"{found.total:,} slots read differently, {found.near_ties:,} of them near ties; {len(rows)} shown"
    return "".join([*parts, _table(names, rows, texts=7, caption=caption)])


def _gold(row: Row) -> str:
    return answer_text(row.gold_decoded if row.gold_present else None)


def _answer(row: Row) -> str:
    return f"{'✓' if row.right else '✗'} {answer_text(row.value if row.present else None)}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _table(names: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int, caption: str = "") -> str:
    """Return a table whose first ``texts`` columns are text; everything is escaped."""

    def cells(tag: str, values: Sequence[object]) -> str:
        marks = ["" if place < texts else ' class="n"' for place in range(len(values))]
        return "".join(f"<{tag}{mark}>{escape(str(value))}</{tag}>" for mark, value in zip(marks, values, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{head}<thead><tr>{cells('th', names)}</tr></thead><tbody>{body}</tbody></table>"
