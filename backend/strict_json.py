"""JSON as data from strangers: no NaN, no duplicate keys, no depth bombs, no lone surrogates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from backend.bounded_read import read_bytes
from backend.errors import InputError

_MAX_DEPTH = 64


def loads(text: str | bytes, *, source: str) -> Any:
    """Parse one JSON document strictly.

    Args:
        text: the document; bytes are taken as UTF-8.
        source: what to call the document in messages, such as ``schemas.json line 3``.

    Raises:
        InputError: if it is not UTF-8 JSON, or holds NaN, Infinity, a duplicate key, a number of more
            than 4,300 digits (Python's limit), a lone surrogate, or more than 64 levels.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8", found=f"byte {error.object[error.start]:#04x}", remedy="Save it as UTF-8."
        ) from error
    except RecursionError as error:
        raise _too_deep(source) from error
    except (ValueError, KeyError) as error:
        raise InputError(f"{source} is not valid JSON", found=_short(error), remedy="Correct the text.") from error
    # UTF-8 holds no lone surrogate and few brackets no depth, so most rows are spared the walk: half of their time
    if "\\u" in decoded or not isinstance(text, bytes) or decoded.count("[") + decoded.count("{") > _MAX_DEPTH:
        _refuse_surrogates(value, source=source, depth=0)
    return value


def load(path: Path) -> Any:
    """Parse the JSON file at `path` strictly; see `loads`.

    Raises:
        InputError: if it cannot be read or parsed.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read", found=error.strerror or "", remedy="Check the path.") from error
    return loads(data, source=path.name)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the constant {name}, which JSON does not have")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} twice in one object")
        result[key] = value
    return result


def _refuse_surrogates(value: Any, *, source: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _too_deep(source)
    if isinstance(value, str):
        if not is_encodable(value):
            raise InputError(f"{source} holds half of a surrogate pair", remedy="Save the text as real UTF-8.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_surrogates(key, source=source, depth=depth + 1)
            _refuse_surrogates(item, source=source, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item, source=source, depth=depth + 1)


def is_encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8, which text with a lone surrogate cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _too_deep(source: str) -> InputError:
    return InputError(f"{source} is nested too deeply", found=f"more than {_MAX_DEPTH} levels", remedy="Flatten it.")


def _short(error: Exception) -> str:
    return str(error)[:200]
