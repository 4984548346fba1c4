"""Random slot values of every kind, from the patterns in ``lexicons/``.

A lexicon holds one value a line; ``@N pattern`` lines are patterns (see :mod:`demo.grammar`) with weight N. A reference
is another lexicon, a character class or a range (``{00..59}`` keeps the leading zero).
"""

from __future__ import annotations

import random
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from demo.grammar import Node, Ref, parse, walk
from demo.split import Side, value_side

HERE = Path(__file__).parent
_FUNCTIONS = tomllib.loads((HERE / "functions.toml").read_text(encoding="utf-8"))
KINDS = frozenset(kind for f in _FUNCTIONS.values() for kind, _ in f["slots"].values())

_CLASSES = {"9": "0123456789", "A": "ABCDEFGHJKLMNPQRSTUVWXYZ", "h": "0123456789abcdef", "A..": "abcdefghijklmnoprstvw"}
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


class _Lexicon(NamedTuple):
    entries: list[tuple[Node, ...]]
    weights: list[float]


@cache
def _lexicon(name: str) -> _Lexicon:
    entries, weights = [], []
    for line in (HERE / "lexicons" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        head, _, pattern = line.partition(" ")
        if head.startswith("@") and head[1:].isdigit():
            entries.append(parse(pattern))
            weights.append(float(head[1:]))
        elif line:
            entries.append(parse(line))
            weights.append(1.0)
    return _Lexicon(entries, list(_cumulated(weights)))


def _cumulated(weights: list[float]) -> list[float]:
    total, sums = 0.0, []
    for weight in weights:
        total += weight
        sums.append(total)
    return sums


def surface(name: str, rng: random.Random) -> str:
    """Draw from one lexicon, whichever side of the split the result is on."""
    lexicon = _lexicon(name)
    nodes = rng.choices(lexicon.entries, cum_weights=lexicon.weights)[0]
    return "".join(_resolve(part.name, rng) if isinstance(part, Ref) else part for part in walk(nodes, rng))


def _resolve(name: str, rng: random.Random) -> str:
    if characters := _CLASSES.get(name):
        return rng.choice(characters)
    if found := _RANGE.fullmatch(name):
        low, high = found.groups()
        width = len(low) if low.startswith("0") and len(low) > 1 else 0
        return str(rng.randint(int(low), int(high))).zfill(width)
    return surface(name, rng)


def sample(kind: str, rng: random.Random, *, side: Side) -> str:
    """Draw a value of ``kind`` from one side of the split; a kind without validation values gives training ones."""
    for allowed in (side, Side.TRAIN) if side is Side.VALIDATION else (side,):
        for _ in range(1000):
            value = surface(kind, rng)
            if value_side(value) is allowed:
                return value
    raise ValueError(f"kind {kind!r} has no value on the {side} side")
