"""What a bundle says of itself before anything is loaded: figures of a stored run, and one example for each failure.

``results.json`` in the bundle's folder is written from an evaluation with ``--matrix`` and read by the first page.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backend.bounded_read import read_text
from backend.errors import InputError
from backend.probe import SlotPrediction
from backend.report import as_json, make_report
from backend.runtimes.base import ForwardOptions
from backend.store import Row, Store

FILE = "results.json"
_TRAINED = (False, True)  # normalize, lora: how the probe was trained
_Cell = tuple[bool, bool]
_Rows = Mapping[str, Mapping[_Cell, list[Row]]]  # by example and toggles


class _Toggled:
    """Something that holds under one pair of toggles."""

    __slots__ = ()
    normalize: bool
    lora: bool

    @property
    def options(self) -> ForwardOptions:
        """The toggles."""
        return ForwardOptions(normalize=self.normalize, lora=self.lora)


@dataclass(frozen=True, slots=True)
class Figure(_Toggled):
    """Exact match of one runtime under one pair of toggles; shares from 0 to 1."""

    runtime: str
    normalize: bool
    lora: bool
    exact_match: float | None  # None where no slot is present
    low: float | None  # 95 % interval of exact_match
    high: float | None
    raw: float | None  # against the raw label string
    presence: float
    n: int  # slots present in gold
    regressions: int | None = None  # against the baseline; None for itself
    improvements: int | None = None
    no_worse: str = ""  # than the baseline by a point, at 95 %: yes, no, not enough data


@dataclass(frozen=True, slots=True)
class Failure(_Toggled):
    """One of the notes' failures, with an example of the run that shows it; the toggles bring it about."""

    name: str
    normalize: bool
    lora: bool
    function: str
    utterance: str
    slot: str = ""  # of raw gold: where label and tokens differ
    decoded: str = ""
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """The content of ``results.json``."""

    dataset: str
    n_examples: int
    versions: str
    machine: str  # where it was measured
    figures: tuple[Figure, ...]
    failures: tuple[Failure, ...]

    def figure(self, runtime: str, options: ForwardOptions) -> Figure | None:
        """Return the figure of one cell, or None where it was not measured."""
        return next((f for f in self.figures if f.runtime == runtime and f.options == options), None)


@dataclass(frozen=True, slots=True)
class Change:
    """A slot that two sets of options read differently; None is absent."""

    slot: str
    before: str | None
    after: str | None


def results_of(store: Store, run: int, *, machine: str) -> Results:
    """Count a finished run and choose the example that shows each failure best.

    Args:
        store: where the run is.
        run: its number.
        machine: where it ran, in words.

    Raises:
        InputError: no such run, no rows yet, or a run without ``--matrix``.
    """
    report = as_json(make_report(store, run))
    found = store.run(run)
    cells = [_figure(cell, report["pairs"]) for cell in report["cells"]]
    baseline = str(found.settings["runtimes"][0])
    if not {(True, True), (False, False)} <= {(c.normalize, c.lora) for c in cells if c.runtime == baseline}:
        raise InputError(f"Run {run} has only one pair of toggles", remedy="Evaluate with --matrix.")
    return Results(
        dataset=report["dataset"]["name"],
        n_examples=report["dataset"]["n_examples"],
        versions=found.fingerprint["versions"],
        machine=machine,
        figures=tuple(cells),
        failures=tuple(_failures(_by_example(store.rows(run), baseline))),
    )


def save_results(results: Results, folder: Path) -> Path:
    """Write ``results.json`` into a bundle's folder and return its path."""
    path = folder / FILE
    path.write_text(json.dumps(asdict(results), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def load_results(folder: Path) -> Results | None:
    """Read a bundle's figures; None where it ships none, or none that this version reads."""
    try:
        content = json.loads(read_text(folder / FILE))
        figures = tuple(Figure(**figure) for figure in content.pop("figures"))
        return Results(**content | {"figures": figures, "failures": tuple(Failure(**f) for f in content["failures"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def changes(before: Iterable[SlotPrediction], after: Iterable[SlotPrediction]) -> tuple[Change, ...]:
    """Return the slots that were read differently, in slot order."""
    pairs = zip(before, after, strict=True)
    return tuple(Change(a.slot, a.value, b.value) for a, b in pairs if a.value != b.value)


def _figure(cell: Mapping[str, Any], pairs: Iterable[Mapping[str, Any]]) -> Figure:
    low, high = cell["ci95"] or (None, None)
    key = (cell["runtime"], cell["normalize"], cell["lora"])
    pair: Mapping[str, Any] = next((p for p in pairs if (p["candidate"], p["normalize"], p["lora"]) == key), {})
    return Figure(
        runtime=cell["runtime"],
        normalize=cell["normalize"],
        lora=cell["lora"],
        exact_match=cell["exact_match"]["decoded"],
        low=low,
        high=high,
        raw=cell["exact_match"]["raw"],
        presence=cell["presence_accuracy"],
        n=cell["n_present"],
        regressions=pair.get("regressions"),
        improvements=pair.get("improvements"),
        no_worse=pair.get("non_inferior", ""),
    )


def _by_example(rows: Iterable[Row], baseline: str) -> _Rows:
    found: dict[str, dict[_Cell, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.runtime == baseline:
            found[row.example][row.normalize, row.lora].append(row)
    return found


def _failures(examples: _Rows) -> Iterable[Failure]:
    """Yield what can be shown: all slots right as trained, most of them changed by the failure; short texts first."""
    right = [cells for cells in examples.values() if all(row.right for row in cells[_TRAINED])]
    right = [cells for cells in right if any(row.present for row in cells[_TRAINED])]
    for name, cell in (("normalisation on", (True, True)), ("LoRA off", (False, False))):
        ranked = sorted(right, key=lambda cells: (-_wrong(cells[cell]), len(cells[_TRAINED][0].utterance)))
        if ranked and _wrong(ranked[0][cell]):
            first = ranked[0][_TRAINED][0]
            yield Failure(name, *cell, first.function, first.utterance)
    rows = [row for cells in right for row in cells[_TRAINED] if row.gold_decoded != row.gold_raw]
    if rows:
        row = min(rows, key=lambda row: (len(row.utterance), row.example))
        failure = Failure("raw gold", *_TRAINED, row.function, row.utterance)
        yield replace(failure, slot=row.slot, decoded=row.gold_decoded, raw=row.gold_raw)


def _wrong(rows: Iterable[Row]) -> int:
    return sum(not row.right for row in rows)
