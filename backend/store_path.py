"""Where runs are kept and datasets are looked for unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

_SUFFIXES = {".jsonl", ".json", ".csv"}
_MOST_FILES = 500


def default_store() -> Path:
    """Return the SQLite file in ``PROBE_PARITY_STORE``, default the folder ``.probe-parity`` where the command runs."""
    return Path(os.environ.get("PROBE_PARITY_STORE", ".probe-parity")).resolve() / "runs.sqlite"


def data_files() -> list[Path]:
    """Return the datasets in the folder ``PROBE_PARITY_DATA``, at most 500, by name; none where it is not set."""
    folder = os.environ.get("PROBE_PARITY_DATA")
    if not folder:
        return []
    found = (path for path in sorted(Path(folder).resolve().rglob("*")) if path.suffix in _SUFFIXES and path.is_file())
    return [path for _, path in zip(range(_MOST_FILES), found, strict=False)]
