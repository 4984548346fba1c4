"""What a safetensors file says of itself, and whether its numbers are finite, without mapping it into memory.

The library maps the whole file: one that shrinks meanwhile ends the process with SIGBUS, and 16 GB of it count against any
limit on memory. Here headers are checked against the size of the file, and values are read in pieces of a megabyte.
Format: 8 bytes little-endian length, a JSON object ``{name: {"dtype", "shape", "data_offsets": [begin, end]}}``, the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from backend import strict_json
from backend.bounded_read import open_regular
from backend.errors import BundleError, InputError

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}
# bits of the exponent, all set in NaN and infinity
_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000, "F8_E5M2": 0x7C}
_MOST_HEADER = 100 * 2**20  # bytes, as the library's own limit
_PIECE = 2**20  # bytes read at a time: what a cache holds


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # byte in the file
    end: int


def read_header(path: Path) -> list[Entry]:
    """Return the tensors of a file in the order of its bytes.

    Raises:
        BundleError: it cannot be read, or header, sizes and length of the file contradict each other.
    """
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MOST_HEADER, size - 8):
                raise _damaged(path, f"a header of {length} bytes in a file of {size}")
            content = strict_json.loads(file.read(length), source=path.name)
    except OSError as error:
        raise _damaged(path, str(error)[:120]) from error
    except InputError as error:
        raise _damaged(path, f"{error.what}: {error.found}"[:160]) from error
    if not isinstance(content, dict):
        raise _damaged(path, "a header that is no object")
    content.pop("__metadata__", None)
    entries = sorted(
        (_entry(path, name, said, 8 + length) for name, said in content.items()), key=lambda e: (e.begin, e.end)
    )
    at = 8 + length
    for entry in entries:
        if entry.begin != at:
            raise _damaged(path, f"{entry.name[:80]} does not begin where the tensor before it ends")
        at = entry.end
    if at != size:
        raise _damaged(path, f"{size} bytes, the header speaks of {at}")
    return entries


def non_finite(path: Path) -> Iterator[str]:
    """Yield the names of tensors that hold NaN or infinity; raises as `read_header` does."""
    entries = [entry for entry in read_header(path) if entry.dtype in _EXPONENT]
    try:
        with path.open("rb", buffering=0) as file:
            yield from (entry.name for entry in entries if not _is_finite(file, entry))
    except OSError as error:
        raise _damaged(path, str(error)[:120]) from error


def _is_finite(file: IO[bytes], entry: Entry) -> bool:
    import numpy as np

    kind = np.dtype(f"<u{_BITS[entry.dtype] // 8}")
    exponent = kind.type(_EXPONENT[entry.dtype])
    file.seek(entry.begin)
    left = entry.end - entry.begin
    while left:
        piece = file.read(min(_PIECE, left))
        if not piece:
            return False  # shorter than it was a moment ago
        left -= len(piece)
        while len(piece) % kind.itemsize:  # an unbuffered read may end anywhere
            more = file.read(kind.itemsize - len(piece) % kind.itemsize)
            if not more:
                return False
            left -= len(more)
            piece += more
        if bool(((np.frombuffer(piece, kind) & exponent) == exponent).any()):
            return False
    return True


def _entry(path: Path, name: str, said: Any, start: int) -> Entry:
    said = said if isinstance(said, dict) else {}
    dtype, shape, offsets = str(said.get("dtype")), _sizes(said.get("shape")), _sizes(said.get("data_offsets"))
    if dtype not in _BITS or shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(path, f"{name[:80]}: {said!r}"[:160])
    begin, end = offsets
    if (end - begin) * 8 != prod(shape) * _BITS[dtype]:
        raise _damaged(path, f"{name[:80]}: {end - begin} bytes for {dtype} {list(shape)}"[:160])
    return Entry(name, dtype, shape, start + begin, start + end)


def _sizes(value: Any) -> tuple[int, ...] | None:
    whole = isinstance(value, list) and len(value) <= 16 and all(type(n) is int and 0 <= n < 2**63 for n in value)
    return tuple(value) if whole else None


def _damaged(path: Path, found: str) -> BundleError:
    return BundleError(f"{path.name} is damaged", found=found, remedy="Copy it again.")
