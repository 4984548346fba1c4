"""Where a bundle may name files: in its own folder, in the demo's, and in those that the operator lists.

A bundle from a stranger must not read what else lies on the machine, neither by a path nor by a link in its folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROBE_PARITY_ROOTS"  # environment variable: folders, separated as in PATH
_DEMO = Path(__file__).resolve().parent.parent / "demo" / "bundle"


def outside(path: Path, folder: Path) -> Path | None:
    """Return where a file or folder of a bundle leads to if that is outside the roots, else None.

    Args:
        path: what the bundle names; of a folder every link in it is followed too.
        folder: the bundle's own folder.
    """
    roots = [folder.resolve(), _DEMO, *_configured()]
    for found in (path, *_links(path)):
        try:
            target = found.resolve()
        except (OSError, RuntimeError):
            return found  # a link that leads round in a circle leads nowhere inside
        if not any(target.is_relative_to(root) for root in roots):
            return target
    return None


def _configured() -> list[Path]:
    return [Path(part).resolve() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]


def _links(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (found for found in path.rglob("*") if found.is_symlink())
