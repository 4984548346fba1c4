"""Small files of strangers, read whole: a link to ``/dev/zero`` or a file of 50 GB must not take the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 64 * 2**20  # the largest tokenizer.json known has 33 MB


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read, is a device, pipe or folder, or holds more than ``most`` bytes.
    """
    # a pipe would wait for somebody to write into it
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is no regular file", path.name)
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"It has more than {most:,} bytes", path.name)
    return data


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """Return the UTF-8 text of a regular file.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, most=most).decode("utf-8")
