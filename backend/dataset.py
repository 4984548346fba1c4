"""Evaluation sets: JSONL, SQuAD v2 JSON and CSV, one example at a time, each row checked against its schema."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from backend import strict_json
from backend.errors import InputError
from backend.json_stream import stream_list
from backend.prompt import Span, check_utterance
from backend.schema import FunctionSchema, get_schema

MAX_LINE_BYTES = 2 * 2**20


class Format(StrEnum):
    """File formats of evaluation sets."""

    JSONL = "jsonl"
    SQUAD = "squad"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class GoldSlot:
    """A value that is present in the utterance."""

    slot: str
    chars: Span  # code points of the utterance, half-open
    value: str  # the raw label


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance with its gold; slots that are not named are absent."""

    id: str
    function: str
    utterance: str
    gold: tuple[GoldSlot, ...]
    where: str = ""  # place in the file, for messages


@dataclass(slots=True)
class Skipped:
    """Rows left out, with the first reasons; filled while reading."""

    count: int = 0
    reasons: list[InputError] = field(default_factory=list)

    def add(self, error: InputError) -> None:
        """Count one row."""
        self.count += 1
        if len(self.reasons) < 20:
            self.reasons.append(error)


def read_examples(
    path: Path,
    schemas: Mapping[str, FunctionSchema],
    *,
    format: Format | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Example]:
    """Yield the examples of a file.

    Args:
        path: the file.
        schemas: functions that rows may name.
        format: default by suffix: ``.csv``, ``.json`` (SQuAD), else JSONL.
        skipped: where to count bad rows; without it the first one ends the reading.

    Raises:
        InputError: the file cannot be read, holds no example, or a row is bad; with line number and reason.
    """
    chosen = format or {".csv": Format.CSV, ".json": Format.SQUAD}.get(path.suffix, Format.JSONL)
    reader = {Format.JSONL: _jsonl_rows, Format.SQUAD: _squad_rows, Format.CSV: _csv_rows}[chosen]
    seen: set[int] = set()
    n = 0
    for where, make in reader(path):
        try:
            example = _checked(make(), schemas)
            # 8 bytes an id, not the ids themselves: a million rows stay below 100 MB
            key = int.from_bytes(hashlib.blake2b(example.id.encode(), digest_size=8).digest())
            if key in seen:
                raise InputError("An id occurs twice", found=example.id[:80], remedy="Make ids unique.")
            seen.add(key)
        except InputError as error:
            located = InputError(f"{path.name}, {where}: {error.what}", found=error.found, remedy=error.remedy)
            if skipped is None:
                raise located from error
            skipped.add(located)
            continue
        n += 1
        yield example
    if n == 0:
        raise InputError(f"{path.name} holds no usable example", remedy="Add rows; an empty set has no exact match.")


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes; raises `InputError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


_Rows = Iterator[tuple[str, Callable[[], Example]]]


def _jsonl_rows(path: Path) -> _Rows:
    try:
        with path.open("rb") as file:
            # bytes, split at \n only: text mode would also split at U+2028
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if line.strip():
                    yield f"line {number}", lambda line=line, number=number: _json_example(line, number)  # type: ignore[misc]
                if len(line) > MAX_LINE_BYTES:
                    return
    except OSError as error:
        raise _unreadable(path, error) from error


def _json_example(line: bytes, number: int) -> Example:
    if len(line) > MAX_LINE_BYTES:
        raise InputError("The line is too long", found=f"more than {MAX_LINE_BYTES} bytes", remedy="Is it JSONL?")
    record = strict_json.loads(line, source="The line")
    if not isinstance(record, Mapping) or not isinstance(record.get("slots"), Mapping):
        raise InputError('A row needs "function", "utterance" and "slots"', found=repr(record)[:60], remedy="See README.")
    gold = tuple(_gold(str(slot), entry) for slot, entry in record["slots"].items())
    id = str(record.get("id", number))
    return Example(id, _text(record, "function"), _text(record, "utterance"), gold, f"line {number}")


def _gold(slot: str, entry: Any) -> GoldSlot:
    if not isinstance(entry, Mapping):
        raise InputError(f"Slot {slot!r} is not an object", found=repr(entry)[:60], remedy="Leave absent slots out.")
    start, end = entry.get("char_start"), entry.get("char_end")
    if type(start) is not int or type(end) is not int:
        raise InputError(
            f"Slot {slot!r} needs whole numbers char_start and char_end",
            found=f"{start!r}, {end!r}"[:60],
            remedy="Add them.",
        )
    return GoldSlot(slot, Span(start, end), _text(entry, "value"))


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise InputError(f"{name!r} is not a string", found=repr(value)[:60], remedy="Write it in quotes.")
    return value


def _squad_rows(path: Path) -> _Rows:
    """SQuAD v2, article by article: the title names the function, a question's text the slot."""
    for a, article in enumerate(stream_list(path, "data")):
        paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
        for p, paragraph in enumerate(paragraphs if isinstance(paragraphs, list) else [None]):
            where = f"data[{a}].paragraphs[{p}]"
            yield where, lambda a=article, p=paragraph, w=where: _squad_example(a, p, w)  # type: ignore[misc]


def _squad_example(article: Any, paragraph: Any, where: str) -> Example:
    try:
        gold = []
        for question in paragraph["qas"]:
            if not question.get("is_impossible", False):
                answer = question["answers"][0]
                start, value = answer["answer_start"], answer["text"]
                if type(start) is not int or not isinstance(value, str) or not isinstance(question["question"], str):
                    raise TypeError(f"question {question['question']!r}, answer_start {start!r}, text {value!r}")
                gold.append(GoldSlot(question["question"], Span(start, start + len(value)), value))
        return Example(where, str(article["title"]), str(paragraph["context"]), tuple(gold), where)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            "A paragraph is not SQuAD v2", found=f"{type(error).__name__} {error}"[:80], remedy="See the SQuAD v2 format."
        ) from error


def _csv_rows(path: Path) -> _Rows:
    """Columns ``function, utterance, slot, char_start, char_end, value`` and perhaps ``id``: one row a present slot.

    Rows of one example follow each other; an example without present slots is one row with an empty ``slot``.
    """
    try:
        with path.open("rb") as file:
            rows = csv.reader(_csv_lines(file, path.name), strict=True)
            yield from _csv_groups(rows, path.name)
    except csv.Error as error:
        raise InputError(
            f"{path.name}, line {rows.line_num}: this is not plain CSV", found=str(error)[:100], remedy="Save it again."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _csv_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Yield lines as the csv module wants them; bytes, split at line feeds only, as for JSONL."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{name}, line {number}: the line is too long",
                found=f"more than {MAX_LINE_BYTES} bytes",
                remedy="Is it CSV?",
            )
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}, line {number}: this is not UTF-8",
                found=f"byte {line[error.start]:#04x}",
                remedy="Save it as UTF-8.",
            ) from error


def _csv_groups(rows: Any, name: str) -> _Rows:
    header: list[str] = next(rows, [])
    if not {"function", "utterance", "slot", "char_start", "char_end", "value"} <= set(header):
        raise InputError(
            f"{name}, line 1 lacks columns",
            found=", ".join(header)[:120],
            remedy="Use function, utterance, slot, char_start, char_end, value, and id if you like.",
        )
    group: list[dict[str, str]] = []
    first = 2
    for row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{name}, line {rows.line_num}: wrong number of columns",
                found=f"{len(row)} instead of {len(header)}",
                remedy="Quote values that hold commas.",
            )
        record = dict(zip(header, row, strict=True))
        if group and _csv_key(record) != _csv_key(group[0]):
            yield f"line {first}", lambda g=group, n=first: _csv_example(g, n)  # type: ignore[misc]
            group, first = [], rows.line_num
        group.append(record)
    if group:
        yield f"line {first}", lambda g=group, n=first: _csv_example(g, n)  # type: ignore[misc]


def _csv_key(record: Mapping[str, str]) -> tuple[str, str, str]:
    return record.get("id", ""), record["function"], record["utterance"]


def _csv_example(group: list[dict[str, str]], number: int) -> Example:
    gold = []
    for record in group:
        if record["slot"]:
            try:
                chars = Span(int(record["char_start"]), int(record["char_end"]))
            except ValueError as error:
                raise InputError("Offsets are not whole numbers", found=str(error)[:80], remedy="Correct them.") from error
            gold.append(GoldSlot(record["slot"], chars, record["value"]))
    first = group[0]
    return Example(first.get("id") or str(number), first["function"], first["utterance"], tuple(gold), f"line {number}")


def _checked(example: Example, schemas: Mapping[str, FunctionSchema]) -> Example:
    schema = get_schema(schemas, example.function)
    check_utterance(example.utterance)
    names = [gold.slot for gold in example.gold]
    unknown = sorted(set(names) - set(schema.slot_names))
    if unknown:
        raise InputError(
            f"The function {schema.name!r} has no such slot",
            found=", ".join(unknown)[:80],
            remedy=f"Its slots are {', '.join(schema.slot_names)}.",
        )
    if len(set(names)) < len(names):
        raise InputError("A slot is labelled twice", found=", ".join(names)[:80], remedy="Keep one of them.")
    for gold in example.gold:
        if not 0 <= gold.chars.start < gold.chars.end <= len(example.utterance):
            raise InputError(
                f"The span of {gold.slot!r} lies outside the utterance",
                found=f"[{gold.chars.start}, {gold.chars.end}) of {len(example.utterance)} characters",
                remedy="Use half-open code-point offsets.",
            )
        text = example.utterance[gold.chars.start : gold.chars.end]
        if text != gold.value:
            raise InputError(
                f"The value of {gold.slot!r} is not what its span covers",
                found=f"{gold.value!r}, the span holds {text!r}"[:120],
                remedy="Correct one of them.",
            )
    return example


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path.name} cannot be read", found=str(error)[:120], remedy="Check path and permissions.")
