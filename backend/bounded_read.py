"""Files of strangers: a pipe must not make anybody wait, and what is read whole must not take the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 64 * 2**20  # the largest tokenizer.json known has 33 MB


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read bytes.

    Raises:
        OSError: it cannot be opened, or is a device, pipe or folder.
    """
    # a pipe would wait for somebody to write into it
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is no regular file", path.name)
    return file


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as `open_regular`, or it cannot be read or holds more than ``most`` bytes.
    """
    with open_regular(path) as file:
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
