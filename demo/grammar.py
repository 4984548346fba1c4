r"""The small grammar in which wordings (``templates/``) and values (``lexicons/``) are written.

``[a|b|]`` picks one alternative, ``{name}`` is replaced by what the caller knows under that name, ``\[`` and the
like are literal. Outside brackets ``|``, ``(`` and ``)`` are plain text. Alternatives nest.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

_CLOSING = {"[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Ref:
    """A name in braces, to be replaced by whoever expands the pattern."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives, one of which is taken with equal chance."""

    options: tuple[tuple[Node, ...], ...]


Node = str | Ref | Choice


def parse(pattern: str) -> tuple[Node, ...]:
    """Parse one pattern; raises ``ValueError`` naming the pattern when brackets do not balance."""
    nodes, end = _sequence(pattern, 0, "")
    if end != len(pattern):
        raise ValueError(f"unbalanced bracket at {end} in {pattern!r}")
    return nodes


def _sequence(text: str, at: int, stops: str) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    plain = ""
    while at < len(text) and text[at] not in stops:
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            plain, at = plain + text[at + 1], at + 2
        elif char in _CLOSING:
            if plain:
                nodes.append(plain)
                plain = ""
            node, at = _bracket(text, at)
            nodes.append(node)
        else:
            plain, at = plain + char, at + 1
    return (*nodes, plain) if plain else tuple(nodes), at


def _bracket(text: str, at: int) -> tuple[Node, int]:
    close = _CLOSING[text[at]]
    options: list[tuple[Node, ...]] = []
    start = at
    while True:
        option, at = _sequence(text, at + 1, "|" + close)
        options.append(option)
        if at >= len(text):
            raise ValueError(f"no {close!r} for the bracket at {start} in {text!r}")
        if text[at] == close:
            break
    lone = options[0] if len(options) == 1 else ()
    if close == "}" and len(lone) == 1 and isinstance(lone[0], str):
        return Ref(lone[0]), at + 1
    return Choice(tuple(options)), at + 1


def walk(nodes: tuple[Node, ...], rng: random.Random) -> Iterator[str | Ref]:
    """Yield text and references of one random expansion, left to right."""
    for node in nodes:
        if isinstance(node, Choice):
            yield from walk(rng.choice(node.options), rng)
        else:
            yield node


def bucket(text: str, buckets: int) -> int:
    """Return a stable number in ``range(buckets)`` for ``text``; used for every train / held-out split."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % buckets
