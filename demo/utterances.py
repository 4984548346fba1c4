"""Random utterances with gold spans, expanded from ``templates/`` and roughened the way people write.

Wordings and values are split once, by hash: what the held-out side holds, training never sees.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from functools import cache

from demo.clauses import with_aside, with_clauses
from demo.grammar import Node, parse, walk
from demo.noise import roughen
from demo.rewording import Draft, reword, slots_of
from demo.split import Side, wording_side
from demo.values import _FUNCTIONS as FUNCTIONS
from demo.values import HERE, sample

_RUN = re.compile(r"[A-Za-z]+|[0-9]+")
_RELATIVE = ("today", "tonight", "tomorrow", "next", "this", "last", "every", "in", "the day", "over")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an utterance: text, and the slot whose value it is (``None`` for wording)."""

    text: str
    slot: str | None = None
    is_value: bool = False  # also true for distractors, which noise must not touch either


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance with gold spans ``{slot: (char_start, char_end)}``, half-open code-point offsets."""

    function: str
    utterance: str
    spans: dict[str, tuple[int, int]]

    def as_json(self) -> dict[str, object]:
        """Return the evaluation-set record of this example."""
        return {
            "function": self.function,
            "utterance": self.utterance,
            "slots": {
                slot: {"char_start": start, "char_end": end, "value": self.utterance[start:end]}
                for slot, (start, end) in sorted(self.spans.items())
            },
        }


def slot_kinds(function: str) -> dict[str, str]:
    """Return ``{slot: value kind}`` of a function."""
    return {slot: kind for slot, (kind, _) in FUNCTIONS[function]["slots"].items()}


@cache
def wordings(function: str, side: Side) -> tuple[tuple[Node, ...], ...]:
    """Return the parsed wordings of one side of the split."""
    lines = (HERE / "templates" / f"{function}.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.strip() and not line.startswith("# ")]
    return tuple(parse(line) for line in kept if wording_side(line) is side)


def pieces(function: str, rng: random.Random, *, side: Side) -> list[Piece]:
    """Expand one random wording; of two drawn, the one with more slots wins, which leaves about 25 % absent."""
    drafts = [list(walk(rng.choice(wordings(function, side)), rng)) for _ in range(2)]
    drafts.sort(key=lambda draft: -len(slots_of(draft)))
    draft = _varied(drafts, function, rng) if side is Side.TRAIN else drafts[0]
    return _fill(function, draft, rng, side=side)


def _varied(drafts: list[Draft], function: str, rng: random.Random) -> Draft:
    draft = with_clauses(reword(*drafts, rng), slot_kinds(function), function, rng)
    while rng.random() < 0.15:
        draft = with_aside(draft, rng)
    return draft


def _fill(function: str, draft: Draft, rng: random.Random, *, side: Side) -> list[Piece]:
    kinds = slot_kinds(function)
    filled: list[Piece] = []
    for part in draft:
        if isinstance(part, str):
            filled.append(Piece(part))
        elif part.name.startswith("~"):
            filled.append(Piece(sample(part.name[1:], rng, side=side), is_value=True))
        else:
            value = sample(kinds[part.name], rng, side=side)
            if filled and value.casefold().startswith(_RELATIVE):
                filled[-1] = _without_on(filled[-1])
            filled.append(Piece(value, part.name, is_value=True))
    return filled


def _without_on(piece: Piece) -> Piece:
    """Drop the ``on`` that would stand before ``tomorrow``."""
    if not piece.is_value and piece.text.casefold().endswith((" on ", "\non ")):
        return Piece(piece.text[:-3])
    return Piece("") if piece.text in ("on ", "On ") else piece


def join(function: str, parts: list[Piece]) -> Example:
    """Join pieces to an utterance, without white space at either end, and note where the values are."""
    text, spans = "", {}
    for part in parts:
        piece = part.text if text else part.text.lstrip()
        if part.slot is not None:
            spans[part.slot] = (len(text), len(text) + len(piece))
        text += piece
    return Example(function, text.rstrip(), spans)


def _scrambled(piece: Piece, rng: random.Random, vocabulary: tuple[str, ...]) -> Piece:
    """Replace a value by random words, or by one of its own shape that nobody has: pointers copy, not recall."""
    if piece.slot is None:
        return piece
    if rng.random() < 0.25:
        return replace(piece, text=" ".join(_word(rng, vocabulary) for _ in range(rng.randint(1, 3))))
    keep = rng.choice([0.0, 0.3, 0.6])
    return replace(
        piece,
        text=_RUN.sub(lambda run: run[0] if rng.random() < keep else _like(run[0], rng, vocabulary), piece.text),
    )


def _word(rng: random.Random, vocabulary: tuple[str, ...]) -> str:
    """Return a word, or one glued from parts of two or three, which the tokenizer has to spell."""
    word, other, draw = rng.choice(vocabulary), rng.choice(vocabulary), rng.random()
    if draw < 0.45:
        return word
    if draw < 0.75:
        return word[: rng.randint(2, 4)] + other[-rng.randint(2, 4) :]
    at = rng.randrange(max(1, len(other) - 2))
    return word[: rng.randint(1, 3)] + other[at : at + rng.randint(2, 3)] + rng.choice(vocabulary)[-rng.randint(1, 4) :]


def _like(run: str, rng: random.Random, vocabulary: tuple[str, ...]) -> str:
    """Return digits for digits, and a word in the same case for a word."""
    if run.isdigit():
        return "".join(rng.choice("0123456789") for _ in run)
    word = _word(rng, vocabulary)
    if run.isupper():
        return word.upper()
    return word.capitalize() if run[0].isupper() else word


def example(
    function: str,
    rng: random.Random,
    *,
    side: Side,
    vocabulary: tuple[str, ...] = (),
    scramble: tuple[float, ...] = (),
) -> Example:
    """Draw an utterance of ``function``.

    ``vocabulary`` are the words that replaced words are taken from; ``scramble`` are shares of values that are replaced,
    one of which is drawn for an utterance.
    """
    while True:
        parts = pieces(function, rng, side=side)
        if scramble:
            share = rng.choice(scramble)
            parts = [_scrambled(part, rng, vocabulary) if rng.random() < share else part for part in parts]
        parts = roughen(parts, rng, vocabulary)
        made = join(function, parts)
        if made.utterance:
            return made
