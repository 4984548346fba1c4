"""Writes what the first page and README show, from an evaluation with ``--matrix``: ``python -m demo.results --run N``."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from backend.bundle import DEMO
from backend.results import Figure, Results, results_of, save_results
from backend.runtimes.base import ForwardOptions
from backend.store import Store
from backend.store_path import default_store

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: python -m demo.results -->", "<!-- end of results -->"


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m demo.results", description="write results.json from a stored run")
    made.add_argument("--run", type=int, required=True, help="number of a finished run with --matrix")
    made.add_argument("--store", type=Path, default=default_store(), help="SQLite file with the run")
    made.add_argument("--bundle", type=Path, default=DEMO, help="folder to write into (default: the demo)")
    made.add_argument("--machine", default=_machine(), help="where the run was made (default: this machine)")
    return made


def main() -> None:
    """Write the file, and the table of README if it is the demo's."""
    arguments = parser().parse_args()
    with Store(arguments.store) as store:
        results = results_of(store, arguments.run, machine=arguments.machine)
    path = save_results(results, arguments.bundle)
    if arguments.bundle == DEMO:
        text = README.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        README.write_text(before + table(results) + after, encoding="utf-8")
    cells, failures = len(results.figures), len(results.failures)
    print(f"wrote {path.name}: {cells} cells of {results.n_examples} examples, {failures} failures")


def table(results: Results) -> str:
    """Return README's section between its two marks."""
    rows = [figure for figure in results.figures if figure.lora]
    lines = [
        BEGIN,
        "| runtime | L2 | exact match (95 % interval) | against the raw label | presence | n | against the first |",
        "|---|---|---|---|---|---|---|",
        *(_row(figure) for figure in rows),
        "",
        f"{results.dataset}, {results.n_examples:,} examples; n: present slots; {results.machine}; {results.versions}. "
        + _without(results),
        "",
    ]
    return "\n".join(lines)


def _row(figure: Figure) -> str:
    share, low, high, raw = (_percent(v) for v in (figure.exact_match, figure.low, figure.high, figure.raw))
    toggle = "on" if figure.normalize else "off"
    presence = _percent(figure.presence)
    cells = [figure.runtime, toggle, f"{share} % ({low} - {high})", f"{raw} %", f"{presence} %", f"{figure.n:,}"]
    return f"| {' | '.join([*cells, _against(figure)])} |"


def _against(figure: Figure) -> str:
    if figure.regressions is None:
        return ""
    flips = f"{figure.regressions} regressions, {figure.improvements} improvements"
    return f"{flips}; no worse by a point: {figure.no_worse}"


def _without(results: Results) -> str:
    """Say what LoRA is worth."""
    off = [f.exact_match for f in results.figures if f.options == ForwardOptions(lora=False) and f.exact_match is not None]
    return f"Without LoRA every runtime is between {_percent(min(off))} and {_percent(max(off))} %." if off else ""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _machine() -> str:
    return f"{os.cpu_count()} {platform.machine()} CPU cores"


if __name__ == "__main__":
    main()
