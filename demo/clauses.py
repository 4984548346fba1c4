"""Clauses added to wordings, for training only: slots named by a noun, values corrected, words thrown in.

Wordings alone teach a model the words that happen to stand beside a slot in them; these clauses put a slot beside many
others (``frames.txt``, ``slot_nouns.txt``). The held-out wordings get none of them.
"""

from __future__ import annotations

import random
from functools import cache

from demo.grammar import Ref
from demo.rewording import Draft, slots_of
from demo.values import HERE

_JOINERS = (", ", ", ", ". ", "; ", " - ", " and ", " ", "\n", " | ", ", with ")
_CORRECTIONS = (
    ("not ", ", "), ("not ", " but "), ("", ", no wait, "), ("", ", sorry, "), ("", " - no, "), ("rather than ", ", "),
    ("instead of ", ", "), ("", "? no, "), ("forget ", ", "), ("", " is out, so "), ("", " didn't work, so "),
)  # fmt: skip
_AFTERTHOUGHTS = ((", not ",), (" instead of ",), (" rather than ",), (" (not ", ")"), (" and not ",), (" over ",))


def with_clauses(draft: Draft, kinds: dict[str, str], function: str, rng: random.Random) -> Draft:
    """Return a draft with clauses for slots it lacks, or one made of such clauses alone.

    Args:
        draft: a wording.
        kinds: kind of value of every slot of the function.
        function: its name.
        rng: source of chance.
    """
    draw = rng.random()
    if draw < 0.06:
        names = rng.sample(sorted(kinds), rng.randint(1, len(kinds)))
        return _listed(names, function, rng, start=_words(function, rng))
    missing = sorted(set(kinds) - slots_of(draft))
    if draw < 0.22 and missing:
        names = rng.sample(missing, rng.randint(1, min(2, len(missing))))
        joiner = rng.choice(_JOINERS)
        if rng.random() < 0.3:
            return [*_listed(names, function, rng, start=[]), joiner, *draft]
        return [*draft, joiner, *_listed(names, function, rng, start=[])]
    if draw < 0.30:
        return _corrected(draft, kinds, rng)
    return draft


def _listed(names: list[str], function: str, rng: random.Random, *, start: Draft) -> Draft:
    """Return one clause for each name, alike or mixed."""
    joiner, frame = rng.choice(_JOINERS), rng.choice(_frames())
    alike = rng.random() < 0.5
    made = list(start)
    for name in names:
        if made:
            made.append(joiner)
        made += _clause(name, function, frame if alike else rng.choice(_frames()), rng)
    return made


def _words(function: str, rng: random.Random) -> Draft:
    """Return the function's name as people might head a list with it, or nothing."""
    words = function.replace("_", " ")
    return [rng.choice([words, words + ":", words.capitalize() + ":", "please " + words, "I want to " + words, function])]


def _clause(slot: str, function: str, frame: str, rng: random.Random) -> Draft:
    noun = rng.choice(_nouns().get(f"{function}.{slot}") or _nouns()[slot])
    if rng.random() < 0.1:
        noun = noun.capitalize()
    before, _, after = frame.replace("{noun}", noun).partition("{value}")
    return [part for part in (before, Ref(slot), after) if part]


def _corrected(draft: Draft, kinds: dict[str, str], rng: random.Random) -> Draft:
    """Put a value of the same kind, which does not count, before or after one that does."""
    at = [i for i, part in enumerate(draft) if isinstance(part, Ref) and part.name in kinds]
    if not at:
        return draft
    index = rng.choice(at)
    other = Ref("~" + kinds[draft[index].name])
    if rng.random() < 0.6:
        before, between = rng.choice(_CORRECTIONS)
        inserted: Draft = [before, other, between, draft[index]]
    else:
        link, *end = rng.choice(_AFTERTHOUGHTS)
        inserted = [draft[index], link, other, *end]
    return [*draft[:index], *(part for part in inserted if part), *draft[index + 1 :]]


def with_aside(draft: Draft, rng: random.Random) -> Draft:
    """Throw a word or two in, beside a value or between two words."""
    aside = rng.choice(_asides())
    at = rng.choice([i for i, part in enumerate(draft) if isinstance(part, Ref)] or [0])
    if at and rng.random() < 0.6 and isinstance(draft[at - 1], str) and draft[at - 1].endswith(" "):
        shown = rng.choice([f"{aside} ", f"{aside}, ", f"- {aside} - ", f"({aside}) "])
        before = draft[at - 1].rstrip() + rng.choice([" ", ", "])
        return [*draft[: at - 1], before + shown, *draft[at:]]
    shown = rng.choice([f", {aside},", f" {aside}", f" ({aside})", f", {aside}", f" - {aside} -"])
    return [*draft[: at + 1], shown, *draft[at + 1 :]]


@cache
def _frames() -> tuple[str, ...]:
    return tuple(_lines("frames.txt"))


@cache
def _nouns() -> dict[str, tuple[str, ...]]:
    pairs = (line.partition(":") for line in _lines("slot_nouns.txt"))
    return {slot: tuple(noun.strip() for noun in nouns.split(",")) for slot, _, nouns in pairs}


@cache
def _asides() -> tuple[str, ...]:
    return tuple(_lines("asides.txt"))


def _lines(name: str) -> list[str]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
