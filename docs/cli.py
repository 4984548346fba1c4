"""Writes cli.md from the argument parsers: ``python -m docs.cli``."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

from backend.cli import COMMANDS

FILE = Path(__file__).parent / "cli.md"


def reference() -> str:
    """Return the page: every command with its help as the terminal prints it."""
    os.environ["COLUMNS"] = "100"  # argparse wraps to the terminal otherwise
    root = argparse.ArgumentParser(prog="python -m backend")
    commands = root.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        importlib.import_module(f"backend.commands.{name}").add_parser(commands)
    sections = [f"## {title}\n\n```text\n{text}```\n" for title, text in _helps(root)]
    head = (
        "# Command line\n\n"
        "Exit codes: 0 fine, 2 wrong input or something missing, 3 a check or a gate did not hold, 1 a bug.\n"
        "Written by `python -m docs.cli`; a test compares it with the parsers.\n"
    )
    return "\n".join([head, *sections])


def _helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:  # argparse has no public way to its subcommands
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                nested = list(_helps(child))
                yield from nested or [(child.prog.removeprefix("python -m backend ") or name, _plain(child))]


def _plain(parser: argparse.ArgumentParser) -> str:
    return parser.format_help().replace(str(Path.cwd()) + os.sep, "")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    print(f"wrote {FILE.name}")
