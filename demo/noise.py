"""What people do to a clean sentence: fillers, chatter, typos, other words, no capitals, no punctuation.

Values keep their spelling, except that a whole utterance may be written in lower case.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from demo.rewording import with_synonyms
from demo.values import surface

if TYPE_CHECKING:
    from demo.utterances import Piece
    from demo.vocabulary import Vocabulary

_WORD = re.compile(r"[A-Za-z]{3,}")
_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "r": "et", "s": "ad", "t": "ry", "u": "yi",
    "v": "cb", "w": "qe", "x": "zc", "y": "tu",
}  # fmt: skip


def roughen(parts: list[Piece], rng: random.Random, vocabulary: Vocabulary | None) -> list[Piece]:
    """Apply a random handful of disturbances to the wording of an utterance; with a ``vocabulary``, harsher ones too."""
    from demo.utterances import Piece

    if vocabulary and rng.random() < 0.60:
        share = rng.choice([0.2, 0.4, 0.7])
        parts = [p if p.is_value else replace(p, text=with_synonyms(p.text, share, rng)) for p in parts]
    if vocabulary and rng.random() < 0.50:
        parts = _edit_words(parts, rng, rng.randint(1, 4), lambda word, rng: rng.choice(vocabulary.words))
    if vocabulary and rng.random() < 0.20:
        parts = _edit_words(parts, rng, rng.randint(1, 3), lambda word, rng: "")
    if rng.random() < 0.10:
        parts = _edit_words(parts, rng, 1, _typo)
    if rng.random() < 0.25 and parts[-1].text:
        parts = _change_end(parts, rng)
    if rng.random() < 0.22:
        parts = [Piece(surface("_opening", rng) + " "), *_maybe_uncapitalise(parts, rng)]
    if rng.random() < 0.18:
        parts = [*parts, Piece(rng.choice([" ", ", ", ". ", " "]) + surface("_closing", rng))]
    if rng.random() < 0.18:
        parts = [replace(part, text=part.text.lower()) for part in parts]
    if rng.random() < 0.015:
        parts = [replace(part, text=part.text.upper()) for part in parts]
    return parts


def _edit_words(
    parts: list[Piece], rng: random.Random, count: int, edit: Callable[[str, random.Random], str]
) -> list[Piece]:
    for _ in range(count):
        wording = [(i, m) for i, p in enumerate(parts) if not p.is_value for m in _WORD.finditer(p.text)]
        if not wording:
            break
        index, found = rng.choice(wording)
        text = parts[index].text
        changed = text[: found.start()] + edit(found.group(), rng) + text[found.end() :]
        parts = [*parts[:index], replace(parts[index], text=changed), *parts[index + 1 :]]
    return parts


def _typo(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + rng.choice(_NEIGHBOURS.get(word[at].lower(), word[at])) + word[at + 1 :]


def _change_end(parts: list[Piece], rng: random.Random) -> list[Piece]:
    from demo.utterances import Piece

    last = parts[-1]
    if last.is_value:
        return [*parts, Piece(rng.choice([".", "!", "?", "", " .", "..", "!!"]))]
    bare = last.text.rstrip(".!? ")
    return [*parts[:-1], replace(last, text=bare + rng.choice(["", "", ".", "!", "?", "..."]))]


def _maybe_uncapitalise(parts: list[Piece], rng: random.Random) -> list[Piece]:
    first = parts[0]
    if first.is_value or len(first.text) < 2 or not first.text[1].islower() or rng.random() < 0.5:
        return parts
    return [replace(first, text=first.text[0].lower() + first.text[1:]), *parts[1:]]
