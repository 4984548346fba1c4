"""`python -m backend runs`: list, compare, export and delete evaluation runs."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.comparison import compare_runs
from backend.export import export_rows
from backend.report import flipped_text, toggles_text
from backend.store import Store
from backend.store_path import default_store


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("runs", help="list, compare, export or delete evaluation runs")
    parser.add_argument("--store", type=Path, default=default_store())
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--compare", type=int, nargs=2, metavar=("BEFORE", "AFTER"), help="two runs of one dataset")
    asked.add_argument("--export", type=int, metavar="RUN", help="write its rows to --out")
    asked.add_argument("--delete", type=int, metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of --export: .csv, .json or .parquet")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; without anything asked, list."""
    with Store(arguments.store) as store:
        if arguments.compare is not None:
            _compare(store, *arguments.compare)
        elif arguments.export is not None:
            out = arguments.out or Path(f"run-{arguments.export}.csv")
            export_rows(store, arguments.export, out)
            print(f"Wrote {out}")
        elif arguments.delete is not None:
            store.delete(arguments.delete)
            print(f"Deleted run {arguments.delete}")
        else:
            for found in store.runs():
                when = datetime.fromtimestamp(found.created).strftime("%Y-%m-%d %H:%M")
                name = Path(found.settings["dataset"]).name
                names = ", ".join(found.settings["runtimes"])
                print(f"{found.id:4d}  {when}  {found.state:9s}  {found.done} of {found.total} prompts  {name}  {names}")
    return 0


def _compare(store: Store, before: int, after: int) -> None:
    compared = compare_runs(store, before, after)
    print(f"Differs between them: {', '.join(compared.changed) or 'nothing'}")
    for cell in compared.cells:
        title = f"{cell.key.runtime} ({toggles_text(cell.key.normalize, cell.key.lora)})"
        shares = " -> ".join("-" if share is None else f"{100 * share:.2f} %" for share in (cell.before, cell.after))
        print(f"{title}: {shares}" + (f"; {flipped_text(cell.flipped)}" if cell.flipped else ""))
