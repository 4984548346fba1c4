"""`python -m backend passport`: what a decision about a deployment rests on; exit code 3 if a runtime may not go out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.errors import CheckFailed
from backend.passport import make_passport
from backend.passport_files import write_passport
from backend.pool import Pool
from backend.store import Store
from backend.store_path import default_store


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("passport", help="write a deployment's passport and a test that checks it again")
    shared.add_bundle(parser)
    shared.add_runtimes(parser)
    parser.add_argument("--run", type=int, required=True, dest="run_number", help="a finished evaluation of the bundle")
    parser.add_argument("--store", type=Path, default=default_store(), help="SQLite file with the run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the three files")
    parser.add_argument("--max-drop", type=float, default=1.0, metavar="POINTS", help="acceptable loss, at 95 %%")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge the runtimes of a run, write, and say which may go out."""
    bundle = load_bundle(arguments.bundle)
    with Store(arguments.store) as store, Pool() as pool:
        names = arguments.runtime or store.run(arguments.run_number).settings["runtimes"]
        specs = shared.chosen(bundle, names)
        made = make_passport(
            store, arguments.run_number, bundle, specs, pool, out=arguments.out, margin=arguments.max_drop / 100
        )
    for runtime in made.runtimes:
        print(f"{runtime.name}: {'; '.join(runtime.reasons) or 'may go out'}")
    for path in write_passport(made, arguments.out):
        print(f"wrote {path}")
    return CheckFailed.exit_code if any(runtime.reasons for runtime in made.runtimes) else 0
