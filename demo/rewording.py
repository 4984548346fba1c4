"""New wordings from old ones, for training only.

Two wordings joined where they name the same slot, clauses left out, telegram style, synonyms. The held-out wordings are
never seen here.
"""

from __future__ import annotations

import random
import re
from functools import cache

from demo.grammar import Ref
from demo.values import HERE

Draft = list[str | Ref]
_WORD = re.compile(r"[A-Za-z']+")


def slots_of(draft: Draft) -> set[str]:
    """Return the names of the slots a draft mentions."""
    return {part.name for part in draft if isinstance(part, Ref) and not part.name.startswith("~")}


def reword(first: Draft, second: Draft, rng: random.Random) -> Draft:
    """Return a draft made of one or both."""
    draw = rng.random()
    if draw < 0.30:
        return _crossed(first, second, rng)
    if draw < 0.38:
        return _two_sentences(first, second, rng)
    if draw < 0.45:
        return _without_a_clause(first, rng)
    if draw < 0.52:
        return _telegram(first, rng)
    return first


def _crossed(first: Draft, second: Draft, rng: random.Random) -> Draft:
    """Take one wording up to a slot and the other from there on."""
    shared = sorted(slots_of(first) & slots_of(second))
    if not shared:
        return _two_sentences(first, second, rng)
    at = Ref(rng.choice(shared))
    made = first[: first.index(at) + 1] + second[second.index(at) + 1 :]
    return made if _once_each(made) else first


def _two_sentences(first: Draft, second: Draft, rng: random.Random) -> Draft:
    made = [*first, rng.choice([". ", ", ", "; ", " and ", " - ", "\n"]), *second]
    return made if _once_each(made) else first


def _without_a_clause(draft: Draft, rng: random.Random) -> Draft:
    """Leave out one slot together with the words before it."""
    at = [i for i, part in enumerate(draft) if isinstance(part, Ref)]
    if len(at) < 2:
        return draft
    gone = rng.choice(at[1:])
    before = max(i for i in at if i < gone)
    return draft[: before + 1] + draft[gone + 1 :]


def _telegram(draft: Draft, rng: random.Random) -> Draft:
    """Keep the values and, before each, the last word or two."""
    made: Draft = []
    for i, part in enumerate(draft):
        if isinstance(part, Ref):
            made.append(part)
        elif i + 1 < len(draft):
            words = part.split()[-rng.choice([1, 1, 2, 3]) :]
            lead = " " if part[:1].isspace() and made else ""
            made.append(lead + " ".join(words) + (" " if part[-1:].isspace() and words else ""))
    return made if slots_of(made) else draft


def _once_each(draft: Draft) -> bool:
    names = [part.name for part in draft if isinstance(part, Ref) and not part.name.startswith("~")]
    return len(names) == len(set(names))


@cache
def _groups() -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for line in (HERE / "synonyms.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            words = tuple(word.strip() for word in line.split(","))
            for word in words:
                groups[word] = groups.get(word, ()) + tuple(other for other in words if other != word)
    return groups


def with_synonyms(text: str, share: float, rng: random.Random) -> str:
    """Replace about ``share`` of the words and two- or three-word phrases that have synonyms."""
    words = list(_WORD.finditer(text))
    out, at, i = "", 0, 0
    groups = _groups()
    while i < len(words):
        for length in (3, 2, 1):
            last = min(i + length, len(words)) - 1
            found = text[words[i].start() : words[last].end()]
            others = groups.get(found.lower())
            if others and last == i + length - 1 and rng.random() < share:
                new = rng.choice(others)
                out += text[at : words[i].start()] + (new[0].upper() + new[1:] if found[0].isupper() else new)
                at, i = words[last].end(), last
                break
        i += 1
    return out + text[at:]
