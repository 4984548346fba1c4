"""Where runs are kept unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_store() -> Path:
    """Return the SQLite file in ``PROBE_PARITY_STORE``, default the folder ``.probe-parity`` where the command runs."""
    return Path(os.environ.get("PROBE_PARITY_STORE", ".probe-parity")).resolve() / "runs.sqlite"
