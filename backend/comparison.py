"""Two runs side by side: the same dataset before and after something changed."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import InputError
from backend.report import Flipped, compare_cells, make_report
from backend.store import Run, Store
from backend.store_schema import CellKey


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell in both runs."""

    key: CellKey
    before: float | None  # exact match in the first run, share; None where no slot is present
    after: float | None
    flipped: Flipped | None  # the second run against the first


@dataclass(frozen=True, slots=True)
class Comparison:
    """All cells that two runs share."""

    first: Run
    second: Run
    changed: tuple[str, ...]  # fingerprints that differ: what may have caused the differences
    cells: tuple[Compared, ...]


def compare_runs(store: Store, first: int, second: int, *, margin: float = 0.01) -> Comparison:
    """Compare the cells that both runs have, slot by slot.

    Raises:
        InputError: the runs are of different datasets, read differently, or share no cell.
    """
    runs = store.run(first), store.run(second)
    if runs[0].fingerprint["dataset"] != runs[1].fingerprint["dataset"]:
        raise InputError(
            f"Runs {first} and {second} are of different datasets",
            found=" and ".join(run.fingerprint["dataset"][:12] for run in runs),
            remedy="Compare runs of one file.",
        )
    for name in ("format", "skip_bad"):
        if runs[0].settings[name] != runs[1].settings[name]:
            raise InputError(
                f"Runs {first} and {second} read the dataset differently", found=name, remedy="Evaluate one of them again."
            )
    reports = [
        {CellKey(c.runtime, c.normalize, c.lora): c.metrics for c in make_report(store, run.id).cells} for run in runs
    ]
    ids = [store.cells(run.id) for run in runs]
    cells = tuple(
        Compared(
            key,
            reports[0][key].decoded,
            reports[1][key].decoded,
            compare_cells(store, ids[0][key], ids[1][key], margin=margin),
        )
        for key in reports[0]
        if key in reports[1]
    )
    if not cells:
        raise InputError(f"Runs {first} and {second} share no cell", remedy="Compare runs of one runtime.")
    now, then = runs[1].fingerprint, runs[0].fingerprint
    return Comparison(*runs, tuple(sorted(name for name in now if now[name] != then.get(name))), cells)
