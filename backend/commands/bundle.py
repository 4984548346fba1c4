"""`python -m backend bundle verify DIR`: every problem of a bundle; exit code 3 if there is one."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.errors import CheckFailed
from backend.verify import verify_bundle


def add_parser(commands: Any) -> None:
    """Add the command."""
    actions = commands.add_parser("bundle", help="look after bundles").add_subparsers(dest="action", required=True)
    parser = actions.add_parser("verify", help="name every problem of a bundle")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the problems, or that there are none."""
    problems = verify_bundle(arguments.folder)
    if arguments.json:
        print(json.dumps([asdict(problem) for problem in problems], ensure_ascii=False, indent=2))
    else:
        print("\n".join(map(str, problems)) or "no problems")
    return CheckFailed.exit_code if problems else 0
