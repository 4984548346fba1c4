"""`python -m backend record`: states, norms and predictions of a dataset in one file that needs no engine to read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.dataset import Format
from backend.evaluation import check_resumable
from backend.plan import Plan
from backend.pool import Pool
from backend.record import record
from backend.store import Store
from backend.store_path import default_store


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("record", help="write what runtimes compute into one file that needs no engine")
    shared.add_bundle(parser)
    shared.add_runtimes(parser)
    shared.add_dataset(parser)
    parser.add_argument("--run", type=int, dest="run_number", help="take dataset and runtimes of this evaluation run")
    parser.add_argument("--store", type=Path, default=default_store(), help="SQLite file of --run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and say what it holds."""
    plan = _plan(arguments)
    with Pool() as pool:
        n = record(plan, pool.get, arguments.out.resolve())
    size = arguments.out.stat().st_size / 2**20
    print(f"{arguments.out}: {n} prompts, {', '.join(spec.name for spec in plan.specs)}, {size:.1f} MiB")
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.run_number is not None:
        with Store(arguments.store) as store:
            plan = Plan.from_settings(store.run(arguments.run_number).settings)
            check_resumable(store, arguments.run_number, plan)  # another bundle or dataset would be another run
        return plan
    bundle = load_bundle(arguments.bundle)
    return Plan(
        bundle=bundle,
        specs=tuple(shared.chosen(bundle, arguments.runtime, default_all=True)),
        loras=(True, False),
        normalizes=(False, True),
        dataset=shared.dataset_of(bundle, arguments.dataset),
        format=Format(arguments.format) if arguments.format else None,
        limit=arguments.limit,
        skip_bad=arguments.skip_bad,
    )
