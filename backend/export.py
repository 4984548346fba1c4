"""All rows of a run as one file for other programs, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import InputError, PrerequisiteError
from backend.store import ROW_COLUMNS, Store

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 50_000  # rows in memory at a time
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet recognises a formula


def export_rows(store: Store, run: int, path: Path) -> None:
    """Write all rows of a run as CSV, JSON or Parquet, by suffix.

    In CSV, text that a spreadsheet would run as a formula gets an apostrophe in front (``-5`` becomes ``'-5``).

    Raises:
        InputError: another suffix, or no such run.
        PrerequisiteError: the file cannot be written.
    """
    writers = {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise InputError("Unknown export format", found=path.suffix, remedy="Use .csv, .json or .parquet.")
    store.run(run)
    try:
        writers[path.suffix](_frames(store, run), path)
    except OSError as error:
        raise PrerequisiteError(
            f"{path.name} cannot be written", found=str(error)[:160], remedy="Free disk space or name another file."
        ) from error


def _frames(store: Store, run: int) -> Iterator[pd.DataFrame]:
    """Yield the rows in parts, at least one, so that every format gets its header."""
    import pandas as pd

    rows = store.rows(run)
    first = True
    while (part := [astuple(row) for row in islice(rows, _CHUNK)]) or first:
        first = False
        frame = pd.DataFrame(part, columns=list(ROW_COLUMNS))
        # whole numbers that may be missing; the same type in every part
        yield frame.astype({"gold_start": "Int64", "gold_end": "Int64", "start_margin": float, "end_margin": float})


def _write_csv(frames: Iterator[pd.DataFrame], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, frame in enumerate(frames):
            texts = frame.select_dtypes(exclude=["number", "bool"]).columns
            frame[texts] = frame[texts].map(escape_formula)
            frame.to_csv(file, index=False, header=number == 0)


def escape_formula(value: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(_FORMULA) else value


def _write_json(frames: Iterator[pd.DataFrame], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, frame in enumerate(frames):
            text = frame.to_json(orient="records", force_ascii=False)
            inside = text[1:-1]
            file.write(f"{',' if number and inside else ''}{inside}")
        file.write("]\n")


def _write_parquet(frames: Iterator[pd.DataFrame], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    try:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
