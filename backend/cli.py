"""The command line. Exit codes: 0 fine, 2 wrong input or missing prerequisite, 3 a check or gate failed, 1 a bug."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from backend.errors import BackendError

COMMANDS = (
    "predict",
    "serve_command",
    "quantize",
    "rescale_adapter",
    "check",
    "bundle",
    "evaluate",
    "runs",
    "record",
    "diagnose",
    "passport",
)

# stderr is for the one message; libraries draw bars and repeat what the message says
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a `BackendError` becomes one message on stderr."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(encoding="utf-8")  # values may hold any letter, and JSON is UTF-8 wherever it goes
    parser = argparse.ArgumentParser(prog="python -m backend")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        importlib.import_module(f"backend.commands.{name}").add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except BackendError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
