"""Random utterances with gold spans, expanded from ``templates/`` and roughened the way people write.

Wordings and values are split once, by hash: what the held-out side holds, training never sees.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from demo.grammar import Node, Ref, bucket, parse, walk
from demo.noise import roughen
from demo.values import _FUNCTIONS as FUNCTIONS
from demo.values import HERE, sample

_HELD_OUT_SHARE = 9  # one wording in nine is kept for evaluation
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
def wordings(function: str, *, held_out: bool) -> tuple[tuple[Node, ...], ...]:
    """Return the parsed wordings of one side of the split."""
    lines = (HERE / "templates" / f"{function}.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.strip() and not line.startswith("# ")]
    return tuple(parse(line) for line in kept if (bucket(line, _HELD_OUT_SHARE) == 0) == held_out)


def pieces(function: str, rng: random.Random, *, held_out: bool) -> list[Piece]:
    """Expand one random wording; of two drawn, the one with more slots wins, which leaves about 25 % absent."""
    side = wordings(function, held_out=held_out)
    drafts = [list(walk(rng.choice(side), rng)) for _ in range(2)]
    return _fill(function, max(drafts, key=_count_slots), rng, held_out=held_out)


def _count_slots(draft: list[str | Ref]) -> int:
    return len({part.name for part in draft if isinstance(part, Ref) and not part.name.startswith("~")})


def _fill(
    function: str, draft: list[str | Ref], rng: random.Random, *, held_out: bool
) -> list[Piece]:
    kinds = slot_kinds(function)
    filled: list[Piece] = []
    for part in draft:
        if isinstance(part, str):
            filled.append(Piece(part))
        elif part.name.startswith("~"):
            filled.append(Piece(sample(part.name[1:], rng, held_out=held_out), is_value=True))
        else:
            value = sample(kinds[part.name], rng, held_out=held_out)
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
    return replace(piece, text=" ".join(rng.choices(vocabulary, k=rng.randint(1, 3)))) if piece.slot else piece


def example(
    function: str,
    rng: random.Random,
    *,
    held_out: bool,
    vocabulary: tuple[str, ...] = (),
    scramble: float = 0.0,
) -> Example:
    """Draw an utterance of ``function``.

    ``vocabulary`` are the words that replaced words are taken from; ``scramble`` is the share of values that become
    one to three of those words.
    """
    while True:
        parts = pieces(function, rng, held_out=held_out)
        if scramble:
            parts = [_scrambled(part, rng, vocabulary) if rng.random() < scramble else part for part in parts]
        parts = roughen(parts, rng, vocabulary)
        made = join(function, parts)
        if made.utterance:
            return made
