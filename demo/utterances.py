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
from demo.split import Side, value_side, wording_side
from demo.values import _FUNCTIONS as FUNCTIONS
from demo.values import HERE, sample
from demo.vocabulary import Vocabulary

_RUN = re.compile(r"[A-Za-z]+|[0-9]+")
_NAME = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")  # words only: a phrase may stand for it
_RELATIVE = ("today", "tonight", "tomorrow", "next", "this", "last", "every", "in", "the day", "over")

_OFTEN = {"distance_between": 11, "reflect_point": 27, "observe_sky": 4} | dict.fromkeys(
    ("integrate", "differentiate", "evaluate_expression", "solve_equation", "split_bill", "call_api"), 2
)  # the deployment that the held-out set stands for reads coordinates
_MIX = {name: _OFTEN.get(name, 1) for name in sorted(FUNCTIONS)}


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


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What training does to utterances beyond what people do, so that a probe reads wordings and values it never saw."""

    vocabulary: Vocabulary  # replaced words and values come from here
    scramble: tuple[float, ...] = (0.0, 0.0, 0.3, 0.8)  # shares of values that are replaced; each utterance draws one
    rough: bool = True  # words of the wording are replaced and dropped too


def deployed(rng: random.Random) -> str:
    """Draw a function as often as the deployment calls it."""
    return rng.choices(list(_MIX), list(_MIX.values()))[0]


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
    """Expand one random wording, or at times the fuller one of two, which leaves about 25 % of the slots absent."""
    n_drafts = 2 if side is Side.TRAIN else rng.choice((1, 2))
    drafts = [list(walk(rng.choice(wordings(function, side)), rng)) for _ in range(n_drafts)]
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


def _scrambled(piece: Piece, rng: random.Random, vocabulary: Vocabulary) -> Piece:
    """Replace a value by one that nobody has, which training may see: pointers copy, not recall."""
    if piece.slot is None:
        return piece
    while value_side(text := _invented(piece.text, rng, vocabulary)) is not Side.TRAIN:
        pass
    return replace(piece, text=text)


def _invented(value: str, rng: random.Random, vocabulary: Vocabulary) -> str:
    """Return words, a phrase, the value with a word more, or a value of the same shape."""
    draw = rng.random()
    if draw < 0.12:
        return " ".join(vocabulary.word(rng) for _ in range(rng.randint(1, 3)))
    if _NAME.fullmatch(value):
        if draw < 0.42:
            return vocabulary.phrase(rng)
        if draw < 0.57:
            more = vocabulary.phrase(rng).split()[-1]
            return f"{more} {value}" if rng.random() < 0.6 else f"{value} {more}"
    keep = rng.choice([0.0, 0.3, 0.6])
    return _RUN.sub(lambda run: run[0] if rng.random() < keep else _like(run[0], rng, vocabulary), value)


def _like(run: str, rng: random.Random, vocabulary: Vocabulary) -> str:
    """Return digits for digits, and a word in the same case for a word."""
    if run.isdigit():
        return "".join(rng.choice("0123456789") for _ in run)
    word = vocabulary.word(rng)
    if run.isupper():
        return word.upper()
    return word.capitalize() if run[0].isupper() else word


def example(function: str, rng: random.Random, *, side: Side, disturbance: Disturbance | None = None) -> Example:
    """Draw an utterance of ``function``; training disturbs it more than people do."""
    while True:
        parts = pieces(function, rng, side=side)
        if disturbance:
            share = rng.choice(disturbance.scramble)
            parts = [_scrambled(part, rng, disturbance.vocabulary) if rng.random() < share else part for part in parts]
        parts = roughen(parts, rng, disturbance.vocabulary if disturbance and disturbance.rough else None)
        made = join(function, parts)
        if made.utterance:
            return made
