"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from backend.bundle import DEMO, Bundle
from backend.dataset import Format
from backend.errors import InputError
from backend.runtimes.base import RuntimeSpec


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add ``--bundle``."""
    parser.add_argument("--bundle", type=Path, default=DEMO, help="folder with a bundle.toml (default: the demo)")


def add_runtimes(parser: argparse.ArgumentParser) -> None:
    """Add ``--runtime``, which may be given several times."""
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME", help="repeatable")


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add what says which examples to take."""
    parser.add_argument("--dataset", type=Path, help="default: the bundle's evaluation set")
    parser.add_argument("--format", choices=list(Format), help="default: by suffix")
    parser.add_argument("--limit", type=int, help="examples to take from the start of the dataset")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad rows out and count them, not refuse the set")


def dataset_of(bundle: Bundle, named: Path | None) -> Path:
    """Return the dataset named, else the bundle's; raises `InputError` where there is none."""
    if named is not None:
        return named.resolve()
    if bundle.dataset is None:
        raise InputError("The bundle has no evaluation set", remedy="Name one with --dataset.")
    return bundle.dataset.resolve()


def chosen(bundle: Bundle, names: Sequence[str], *, default_all: bool = False) -> list[RuntimeSpec]:
    """Return the runtimes named, without repeats; else all of them or the first; raises `InputError` for unknown names."""
    if not names:
        return list(bundle.runtimes) if default_all else [bundle.runtimes[0]]
    return [bundle.runtime(name) for name in dict.fromkeys(names)]
