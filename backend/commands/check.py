"""`python -m backend check`: health of runtimes; exit code 3 when a check fails."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from backend.bundle import load_bundle
from backend.check_types import Check
from backend.commands import arguments as shared
from backend.errors import CheckFailed
from backend.health import check_spec
from backend.pool import Pool


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="check the health of runtimes")
    shared.add_bundle(parser)
    shared.add_runtimes(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check runtimes one by one; the first of the bundle is the baseline."""
    bundle = load_bundle(arguments.bundle)
    specs = shared.chosen(bundle, arguments.runtime, default_all=True)
    probe = bundle.load_probe()
    with Pool() as pool:
        results = {spec.name: check_spec(pool, bundle, probe, spec) for spec in specs}
    if arguments.json:
        print(json.dumps({name: [asdict(check) for check in checks] for name, checks in results.items()}, indent=2))
    else:
        print("\n".join(line for name, checks in results.items() for line in _lines(name, checks)))
    failed = [f"{name}: {check.name}" for name, checks in results.items() for check in checks if not check.passed]
    return CheckFailed.exit_code if failed else 0


def _lines(name: str, checks: list[Check]) -> list[str]:
    lines = [name]
    for check in checks:
        lines.append(f"  {'ok  ' if check.passed else 'FAIL'} {check.name}: {check.observed}")
        if not check.passed:
            lines.append(f"       expected {check.expected}. {check.remedy}")
    return lines
