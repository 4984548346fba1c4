"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from backend.bundle import DEMO, Bundle
from backend.runtimes.base import RuntimeSpec


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add ``--bundle``."""
    parser.add_argument("--bundle", type=Path, default=DEMO, help="folder with a bundle.toml (default: the demo)")


def add_runtimes(parser: argparse.ArgumentParser) -> None:
    """Add ``--runtime``, which may be given several times."""
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME", help="repeatable")


def chosen(bundle: Bundle, names: Sequence[str], *, default_all: bool = False) -> list[RuntimeSpec]:
    """Return the runtimes named, without repeats; else all of them or the first; raises `InputError` for unknown names."""
    if not names:
        return list(bundle.runtimes) if default_all else [bundle.runtimes[0]]
    return [bundle.runtime(name) for name in dict.fromkeys(names)]
