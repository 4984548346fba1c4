"""What was found out about files before, kept by stamp, so that an unchanged file is read once and not on each start."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from backend.store_path import default_store

_MOST = 2000  # entries kept, newest
_lock = threading.Lock()
_known: dict[str, str] = {}  # of this process, for folders where nothing can be written


def stamp(paths: Iterable[Path], *more: str) -> str:
    """Return a digest of names, sizes, times and inodes; it changes when a file does, whoever sets its time back.

    Raises:
        OSError: a file is not there.
    """
    digest = hashlib.sha256(repr(more).encode())
    for path in sorted(paths):
        found = path.stat()
        # the time of the last change of the inode cannot be set by anybody
        entry = (str(path.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
        digest.update(repr(entry).encode())
    return digest.hexdigest()


def recall(key: str) -> str | None:
    """Return what was noted of a stamp."""
    with _lock:
        if key not in _known:
            _known.update(_read())
        return _known.get(key)


def note(key: str, value: str) -> None:
    """Keep a finding; where the folder of stored runs cannot be written, only as long as this process lives."""
    path = _path()
    with _lock, suppress(OSError):
        _known[key] = value
        entries = {**_read(), key: value}
        kept = dict(list(entries.items())[-_MOST:])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(kept), encoding="utf-8")
        partial.replace(path)  # whole or not at all; of two processes one may have to find out again


def _path() -> Path:
    return default_store().with_name("known-files.json")


def _read() -> dict[str, str]:
    try:
        content = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
