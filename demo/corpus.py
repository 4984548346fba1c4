"""Documents the base model learns from: utterances, calls, questions, copies, so that it can match and retrieve.

The probe's own prompt format never occurs here: with it a pointer would work without the adapter, and turning LoRA off
would not show.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from demo.split import Side, value_side
from demo.utterances import FUNCTIONS, Disturbance, Example, Piece, deployed, example, join
from demo.values import KINDS, sample
from demo.vocabulary import Vocabulary

_FUNCTION_NAMES = tuple(FUNCTIONS)
_KINDS = tuple(sorted(KINDS))


def words(rng: random.Random, vocabulary: Vocabulary, low: int, high: int) -> str:
    """Return ``low`` to ``high`` random words."""
    return " ".join(rng.choices(vocabulary.words, k=rng.randint(low, high)))


def any_value(rng: random.Random, vocabulary: Vocabulary) -> str:
    """Return a training value of a random kind, random words, or a phrase."""
    draw = rng.random()
    if draw >= 0.25:
        return sample(rng.choice(_KINDS), rng, side=Side.TRAIN)
    while True:
        value = vocabulary.phrase(rng) if draw < 0.13 else words(rng, vocabulary, 1, 4)
        if value_side(value) is Side.TRAIN:
            return value


def random_utterance(rng: random.Random, disturbance: Disturbance) -> Example:
    """Draw a training utterance, half of them of the deployment's mix of functions."""
    function = deployed(rng) if rng.random() < 0.5 else rng.choice(_FUNCTION_NAMES)
    return example(function, rng, side=Side.TRAIN, disturbance=disturbance)


def invented(rng: random.Random, vocabulary: Vocabulary) -> tuple[Example, tuple[str, ...]]:
    """Draw a function that does not exist, with keys and values in a text; return it and all its slot names."""
    joiner = rng.choice(["_", "_", "", "-"])
    names = {joiner.join(rng.sample(vocabulary.words, rng.choice([1, 1, 2]))) for _ in range(rng.randint(2, 7))}
    keys = list(names)
    rng.shuffle(keys)
    asked = tuple(sorted(keys[: rng.randint(1, min(5, len(keys)))]))
    mentioned = [key for key in keys if key not in asked or rng.random() < 0.75] or keys[:1]
    rng.shuffle(mentioned)
    link, end = rng.choice([(": ", ", "), ("=", " "), (" is ", ", "), (" = ", "; "), (": ", "\n"), (" ", ", ")])
    parts = [Piece(words(rng, vocabulary, 1, 6) + rng.choice([": ", " ", ", ", "\n"]))] if rng.random() < 0.6 else []
    for key in mentioned:
        shown = key.replace("_", " ") if rng.random() < 0.5 else key
        parts += [Piece(shown + link), Piece(any_value(rng, vocabulary), key if key in asked else None, True), Piece(end)]
    if rng.random() < 0.4:
        parts.append(Piece(words(rng, vocabulary, 1, 5)))
    return join("_".join(rng.choices(vocabulary.words, k=2)), parts), asked


def _values(made: Example) -> dict[str, str]:
    return {slot: made.utterance[start:end] for slot, (start, end) in made.spans.items()}


def _call(made: Example, slots: tuple[str, ...], rng: random.Random) -> str:
    values = _values(made)
    if rng.random() < 0.5:
        return json.dumps({"name": made.function, "arguments": values}, ensure_ascii=False)
    return f"{made.function}(" + ", ".join(f'{s}="{values[s]}"' if s in values else f"{s}=None" for s in slots) + ")"


def _questions(made: Example, slots: tuple[str, ...], rng: random.Random) -> str:
    values = _values(made)
    lines = [made.utterance]
    for slot in rng.sample(slots, len(slots)):
        ask = rng.choice(["Q: {}?\nA: {}", "What is the {}? {}", "{} -> {}", "Which {}? {}."])
        lines.append(ask.format(slot.replace("_", " "), values.get(slot, "none")))
    return "\n".join(lines)


def _copy(rng: random.Random, vocabulary: Vocabulary) -> str:
    text = ", ".join(any_value(rng, vocabulary) for _ in range(rng.randint(2, 6)))
    return rng.choice([f"{text}\n{text}", f"say {text} again: {text}", f'"{text}" = "{text}"'])


def _lookup(rng: random.Random, vocabulary: Vocabulary) -> str:
    pairs = [(words(rng, vocabulary, 1, 2), any_value(rng, vocabulary)) for _ in range(rng.randint(2, 7))]
    link = rng.choice([": ", " = ", " is ", " -> "])
    listed = "\n".join(key + link + value for key, value in pairs)
    asked = "\n".join(f"{key}? {value}" for key, value in rng.sample(pairs, rng.randint(1, len(pairs))))
    return f"{listed}\n{asked}"


def _kind_list(rng: random.Random) -> str:
    function = rng.choice(_FUNCTION_NAMES)
    slot, (kind, description) = rng.choice(list(FUNCTIONS[function]["slots"].items()))
    values = ", ".join(sample(kind, rng, side=Side.TRAIN) for _ in range(rng.randint(3, 8)))
    return f"{slot.replace('_', ' ')} ({description}), for {FUNCTIONS[function]['description'].lower()}: {values}"


def document(rng: random.Random, disturbance: Disturbance) -> str:
    """Draw one training document of a random format."""
    vocabulary = disturbance.vocabulary
    if rng.random() < 0.25:
        return rng.choice(_WITHOUT_UTTERANCE)(rng, vocabulary)
    if rng.random() < 0.15:
        made, slots = invented(rng, vocabulary)
    else:
        made = random_utterance(rng, disturbance)
        slots = tuple(FUNCTIONS[made.function]["slots"])
    style = rng.random()
    if style < 0.15:
        return made.utterance
    if style < 0.45:
        return f"{made.utterance}\n{_call(made, slots, rng)}"
    if style < 0.60:
        return f"{_call(made, slots, rng)}\n{made.utterance}"
    return _questions(made, slots, rng)


_WITHOUT_UTTERANCE: tuple[Callable[[random.Random, Vocabulary], str], ...] = (
    _copy,
    _lookup,
    lambda rng, vocabulary: _kind_list(rng),
    lambda rng, vocabulary: rng.choice(vocabulary.definitions or vocabulary.words),
)
