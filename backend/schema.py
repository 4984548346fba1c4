"""Function schemas: which slots a function has. Upstream's JSON and OpenAI's tool JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import strict_json
from backend.errors import InputError

_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Slot:
    """One value that a function takes."""

    name: str
    type: str = "string"
    optional: bool = True
    description: str = ""
    kind: str = ""  # what the values are like (city, date, ...); the demo's addition, used for slices


@dataclass(frozen=True, slots=True)
class FunctionSchema:
    """A function and its slots, in sorted name order, the order in which a prompt asks for them.

    Raises:
        InputError: no slots, a slot name twice, or a name that would break the prompt's lines.
    """

    name: str
    slots: tuple[Slot, ...]
    description: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name, what="The function name")
        if not self.slots:
            raise InputError(f"The function {self.name!r} has no slots", remedy="Add at least one slot.")
        names = [slot.name for slot in self.slots]
        for name in names:
            _check_name(name, what=f"A slot name of {self.name!r}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"The function {self.name!r} has a slot twice", found=", ".join(twice), remedy="Rename or remove one."
            )
        object.__setattr__(self, "slots", tuple(sorted(self.slots, key=lambda slot: slot.name)))

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slot names in prompt order."""
        return tuple(slot.name for slot in self.slots)


def load_schemas(path: Path) -> dict[str, FunctionSchema]:
    """Read upstream's ``function_schemas.json`` or a file of OpenAI tools.

    Raises:
        InputError: if the file cannot be read or a schema in it cannot be used.
    """
    return parse_schemas(strict_json.load(path), source=path.name)


def parse_schemas(document: Any, *, source: str) -> dict[str, FunctionSchema]:
    """Turn parsed JSON into schemas by name.

    Accepts upstream's ``{name: {"slots": {...}}}``, one OpenAI tool, or a list of tools.

    Raises:
        InputError: if it is neither, holds no function, or names one function twice.
    """
    if isinstance(document, Mapping) and document.get("type") == "function":
        document = [document]
    if isinstance(document, list):
        schemas = [_from_tool(item, source=source) for item in document]
    elif isinstance(document, Mapping):
        schemas = [_from_upstream(name, entry, source=source) for name, entry in document.items()]
    else:
        raise _unreadable(source, document)
    by_name = {schema.name: schema for schema in schemas}
    if not by_name:
        raise InputError(f"{source} holds no function", remedy="Add a function with at least one slot.")
    if len(by_name) < len(schemas):
        raise InputError(f"{source} names one function twice", remedy="Rename or remove one.")
    return by_name


def parse_tool_json(text: str) -> FunctionSchema:
    """Read exactly one function from pasted JSON: an OpenAI tool or one upstream entry.

    Raises:
        InputError: if the text is not JSON or does not describe exactly one function.
    """
    schemas = parse_schemas(strict_json.loads(text, source="The pasted text"), source="The pasted text")
    if len(schemas) != 1:
        raise InputError("Paste one function at a time", found=f"{len(schemas)} functions", remedy="Keep one of them.")
    return next(iter(schemas.values()))


def get_schema(schemas: Mapping[str, FunctionSchema], name: str) -> FunctionSchema:
    """Look a function up by name.

    Raises:
        InputError: if there is none of that name; the message lists near names.
    """
    import difflib

    if name in schemas:
        return schemas[name]
    near = difflib.get_close_matches(name, schemas, n=3, cutoff=0.4) or sorted(schemas)[:5]
    raise InputError("No function of that name", found=repr(name[:80]), remedy=f"Try one of: {', '.join(near)}.")


def _from_upstream(name: str, entry: Any, *, source: str) -> FunctionSchema:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("slots"), Mapping):
        raise InputError(f"{source}: {name!r} has no object named 'slots'", remedy='Write {"slots": {"name": {...}}}.')
    slots = tuple(_slot(slot_name, slot, source=source) for slot_name, slot in entry["slots"].items())
    return _function(str(entry.get("name", name)), slots, entry.get("description"), source=source)


def _slot(name: str, entry: Any, *, source: str) -> Slot:
    if not isinstance(entry, Mapping):
        raise InputError(f"{source}: slot {name!r} is not an object", found=type(entry).__name__, remedy="Use {}.")
    return Slot(
        name=name,
        type=str(entry.get("type", "string")),
        optional=bool(entry.get("optional", True)),
        description=str(entry.get("description") or ""),
        kind=str(entry.get("kind") or ""),
    )


def _from_tool(item: Any, *, source: str) -> FunctionSchema:
    function = item.get("function", item) if isinstance(item, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _unreadable(source, item)
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping):
        raise InputError(
            f"{source}: {function['name']!r} has no parameters.properties", remedy="Add the parameters as JSON Schema."
        )
    required = parameters.get("required") or ()
    slots = tuple(_tool_slot(name, entry, required=name in required, source=source) for name, entry in properties.items())
    return _function(function["name"], slots, function.get("description"), source=source)


def _function(name: str, slots: tuple[Slot, ...], description: Any, *, source: str) -> FunctionSchema:
    try:
        return FunctionSchema(name=name, slots=slots, description=str(description or ""))
    except InputError as error:  # which cannot know where the function comes from
        raise InputError(f"{source}: {error.what}", found=error.found, remedy=error.remedy) from None


def _tool_slot(name: str, entry: Any, *, required: bool, source: str) -> Slot:
    if not isinstance(entry, Mapping):
        raise InputError(f"{source}: parameter {name!r} is not an object", found=type(entry).__name__, remedy="Use {}.")
    return Slot(
        name=name,
        type=str(entry.get("type", "string")),
        optional=not required,
        description=str(entry.get("description") or ""),
    )


def _unreadable(source: str, document: Any) -> InputError:
    return InputError(
        f"{source} is neither a schema file nor tool JSON",
        found=type(document).__name__,
        remedy='Use {"name": {"slots": {...}}} or {"type": "function", "function": {...}}.',
    )


def _check_name(name: str, *, what: str) -> None:
    bad = not name.strip() or len(name) > _MAX_NAME or not name.isprintable() or not strict_json.is_encodable(name)
    if bad:
        raise InputError(
            f"{what} must be one line of 1 to {_MAX_NAME} printable characters",
            found=ascii(name[:40]),
            remedy="Rename it.",
        )
