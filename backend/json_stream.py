"""The elements of a list inside a large JSON object, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from backend import strict_json
from backend.errors import InputError

_CHUNK = 2**20  # characters read at a time
_MAX_ELEMENT = 64 * 2**20  # characters of one element
_SPACE = " \t\r\n"


def stream_list(path: Path, key: str) -> Iterator[Any]:
    """Yield the elements of the list named ``key`` of the object in a file, each parsed strictly.

    Raises:
        InputError: the file cannot be read, holds no such list, or something that is not strict JSON.
    """
    reader = None
    try:
        with path.open(encoding="utf-8") as file:
            reader = _Reader(file, path.name)
            yield from reader.elements(key)
    except UnicodeDecodeError as error:
        after = reader.line() if reader is not None else 1
        raise InputError(
            f"{path.name}, line {after} or later: this is not UTF-8", found=str(error)[:80], remedy="Save it as UTF-8."
        ) from error
    except OSError as error:
        raise InputError(f"{path.name} cannot be read", found=str(error)[:120], remedy="Check the path.") from error


class _Reader:
    """A buffer over a file; ``at`` is the next character."""

    def __init__(self, file: IO[str], name: str) -> None:
        self.file, self.name = file, name
        self.buffer, self.at = "", 0
        self.dropped = 0  # lines before the buffer

    def line(self, at: int | None = None) -> int:
        """Return the number of the line in which a place of the buffer is, by default the next character's."""
        return self.dropped + self.buffer.count("\n", 0, self.at if at is None else at) + 1

    def elements(self, key: str) -> Iterator[Any]:
        """Skip to the list and yield what it holds; entries before it are parsed and dropped."""
        self.expect("{")
        while self.peek() != "}":
            name = self.value()
            self.expect(":")
            if name == key and self.peek() == "[":
                self.expect("[")
                while self.peek() != "]":
                    yield self.value()
                    if self.peek() != "]":
                        self.expect(",")
                return
            self.value()
            if self.peek() != "}":
                self.expect(",")
        raise InputError(
            f"{self.name} holds no list named {key!r}",
            found=f"its end in line {self.line()}",
            remedy="Is it the right format?",
        )

    def peek(self) -> str:
        """Return the next character that is no white space, empty at the end of the file."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.buffer) or not self.more():
                return self.buffer[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise InputError(
                f"{self.name}, line {self.line()}: this is not valid JSON",
                found=f"{found or 'the end of the file'!r}, {character!r} was due",
                remedy="Correct the text.",
            )
        self.at += 1

    def value(self) -> Any:
        """Parse one value, reading on until it is whole."""
        self.peek()
        while True:
            try:
                _, end = json.JSONDecoder().raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or len(self.buffer) - self.at > _MAX_ELEMENT or not self.more():
                    line = self.line(error.pos if isinstance(error, json.JSONDecodeError) else None)
                    raise InputError(
                        f"{self.name}, line {line}: this is not valid JSON",
                        found=str(error)[:120],
                        remedy="Correct the text.",
                    ) from error
                continue
            if end < len(self.buffer) or not self.more():  # a number may go on in the next chunk
                text, line, self.at = self.buffer[self.at : end], self.line(), end
                return strict_json.loads(text, source=f"{self.name}, line {line}: this")

    def more(self) -> bool:
        """Read on, dropping what was parsed; tell whether there was anything."""
        part = self.file.read(max(_CHUNK, len(self.buffer) - self.at))  # doubles, so that a large element is not quadratic
        self.dropped += self.buffer.count("\n", 0, self.at)
        self.buffer, self.at = self.buffer[self.at :] + part, 0
        return bool(part)
