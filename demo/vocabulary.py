"""Words, phrases and definitions that are not the demo's own, for training only.

Words come from a file of frequent ones. Phrases and definitions come from WordNet's nouns (Fellbaum 1998; file format: its
wndb(5)), which Debian packages as ``wordnet-base``: real names of several words show where an unknown name may end.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from demo.split import Side, value_side

_PHRASE = re.compile(r"[A-Za-z][A-Za-z'.]*(?:[ -][A-Za-z'.]+){0,3}")
_LONGEST_DEFINITION = 240  # characters


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What random text is drawn from; no phrase is a value that training may not see."""

    words: tuple[str, ...]
    phrases: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()  # "phrase: definition"

    @classmethod
    def load(cls, words: Path, wordnet: Path | None = None) -> Vocabulary:
        """Read a file of one word a line, and ``data.noun`` of WordNet's folder."""
        listed = tuple(words.read_text(encoding="utf-8").split())
        if wordnet is None:
            return cls(listed)
        phrases, definitions = [], []
        for line in (wordnet / "data.noun").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, definition = line.partition(" | ")
            columns = fields.split()
            names = [name.replace("_", " ") for name in columns[4 : 4 + 2 * int(columns[3], 16) : 2]]
            phrases += [name for name in names if _PHRASE.fullmatch(name) and value_side(name) is Side.TRAIN]
            definitions.append(f"{', '.join(names)}: {definition.strip()}"[:_LONGEST_DEFINITION])
        return cls(listed, tuple(phrases), tuple(definitions))

    def word(self, rng: random.Random) -> str:
        """Return a word, or one glued from parts of two or three, which the tokenizer has to spell."""
        word, other, draw = rng.choice(self.words), rng.choice(self.words), rng.random()
        if draw < 0.45:
            return word
        if draw < 0.75:
            return word[: rng.randint(2, 4)] + other[-rng.randint(2, 4) :]
        at = rng.randrange(max(1, len(other) - 2))
        return word[: rng.randint(1, 3)] + other[at : at + rng.randint(2, 3)] + rng.choice(self.words)[-rng.randint(1, 4) :]

    def phrase(self, rng: random.Random) -> str:
        """Return a noun of one to four words, in one of the cases people write; random words where there is no WordNet."""
        if not self.phrases:
            return " ".join(self.word(rng) for _ in range(rng.randint(1, 3)))
        phrase, draw = rng.choice(self.phrases), rng.random()
        if draw < 0.5 or not phrase.islower():
            return phrase
        return phrase.title() if draw < 0.85 else phrase.capitalize()
