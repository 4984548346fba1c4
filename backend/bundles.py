"""The bundles that somebody may choose from: those in the configured folder, by name; never a path from outside."""

from __future__ import annotations

import os
from pathlib import Path

from backend.bundle import DEMO

FOLDER = "PROBE_PARITY_BUNDLES"  # environment variable: a folder of bundles
DEFAULT = "PROBE_PARITY_BUNDLE"  # environment variable: the bundle to begin with


def list_bundles() -> dict[str, Path]:
    """Return folders by name, the one to begin with first.

    That is the folder in ``PROBE_PARITY_BUNDLE``, by default the demo; behind it come the folders with a bundle.toml
    directly in ``PROBE_PARITY_BUNDLES``. One whose name was taken already gets a number.
    """
    first = Path(os.environ.get(DEFAULT) or DEMO)
    found = {"demo" if first == DEMO else first.name: first}
    configured = os.environ.get(FOLDER)
    folders = sorted(path.parent for path in Path(configured).glob("*/bundle.toml")) if configured else []
    for folder in folders:
        if folder.resolve() not in {known.resolve() for known in found.values()}:
            name = folder.name
            found[name if name not in found else f"{name} ({len(found) + 1})"] = folder
    return found
