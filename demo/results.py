"""Writes what the first page shows, from an evaluation with ``--matrix``: ``python -m demo.results --run N``."""

from __future__ import annotations

import argparse
from pathlib import Path

from backend.bundle import DEMO
from backend.results import results_of, save_results
from backend.store import Store
from backend.store_path import default_store


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m demo.results", description="write results.json from a stored run")
    made.add_argument("--run", type=int, required=True, help="number of a finished run with --matrix")
    made.add_argument("--store", type=Path, default=default_store(), help="SQLite file with the run")
    made.add_argument("--bundle", type=Path, default=DEMO, help="folder to write into (default: the demo)")
    return made


def main() -> None:
    """Write the file and name its size."""
    arguments = parser().parse_args()
    with Store(arguments.store) as store:
        results = results_of(store, arguments.run)
    path = save_results(results, arguments.bundle)
    cells, failures = len(results.figures), len(results.failures)
    print(f"wrote {path.name}: {cells} cells of {results.n_examples} examples, {failures} failures")


if __name__ == "__main__":
    main()
