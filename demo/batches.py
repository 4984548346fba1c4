"""Training data as arrays, made by a pool of processes while the accelerator works."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo import corpus
from demo.split import Side
from demo.utterances import FUNCTIONS, Disturbance, Example, example

LENGTHS = (64, 96, 160)  # prompts are padded to the next of these; longer ones are dropped
MAX_SLOTS = 6
_INVENTED = 0.15
_worker: dict = {}  # what each process of the pool loaded when it started


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """Prompts of one padded length, with gold; absent slots have ``start = -1``, unused slot columns ``query = -1``."""

    ids: np.ndarray  # [n, length] uint16
    utterance: np.ndarray  # [n, 2] int16, half-open
    query: np.ndarray  # [n, MAX_SLOTS] int16
    start: np.ndarray  # [n, MAX_SLOTS] int16
    end: np.ndarray  # [n, MAX_SLOTS] int16, inclusive


def _start_worker(tokenizer: str, disturbance: Callable[[], Disturbance]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    _worker["tokenizer"] = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    _worker["disturbance"] = disturbance()


def _encode(texts: list[str]) -> list:
    return _worker["tokenizer"].encode_batch(texts, add_special_tokens=False)


def _base_shard(job: tuple[int, int]) -> np.ndarray:
    """Return about ``n_documents`` documents as one stream of ids, each ended by EOS."""
    seed, n_documents = job
    rng = random.Random(f"base-{seed}")
    eos = _worker["tokenizer"].token_to_id("<|end_of_text|>")
    encoded = _encode([corpus.document(rng, _worker["disturbance"]) for _ in range(n_documents)])
    return np.concatenate([np.array([*e.ids, eos], dtype=np.uint16) for e in encoded])


def _probe_shard(job: tuple[int, int]) -> list[ProbeBatch]:
    """Return ``n_examples`` prompts with gold, grouped by padded length."""
    seed, n_examples = job
    rng, disturbance = random.Random(f"probe-{seed}"), _worker["disturbance"]
    made = []
    for _ in range(n_examples):
        if rng.random() < _INVENTED:
            made.append(corpus.invented(rng, disturbance.vocabulary))
        else:
            made.append(_with_slots(corpus.random_utterance(rng, disturbance)))
    return _grouped(made)


def _validation_shard(n_examples: int) -> list[ProbeBatch]:
    """Return prompts of wordings and values that are withheld from training, as people would write them."""
    rng, names = random.Random("validation"), sorted(FUNCTIONS)
    return _grouped([_with_slots(example(rng.choice(names), rng, side=Side.VALIDATION)) for _ in range(n_examples)])


def _with_slots(drawn: Example) -> tuple[Example, tuple[str, ...]]:
    return drawn, tuple(sorted(FUNCTIONS[drawn.function]["slots"]))


def _grouped(made: list[tuple[Example, tuple[str, ...]]]) -> list[ProbeBatch]:
    pieces = [
        [f"Function: {drawn.function}\n", drawn.utterance, "\n\n", *[part for s in slots for part in (f"{s}:", "\n")]]
        for drawn, slots in made
    ]
    flat = _encode([text for texts in pieces for text in texts])
    rows: dict[int, list[tuple]] = {length: [] for length in LENGTHS}
    at = 0
    for (drawn, slots), texts in zip(made, pieces, strict=True):
        parts, at = flat[at : at + len(texts)], at + len(texts)
        ids = [i for part in parts for i in part.ids]
        length = next((length for length in LENGTHS if length >= len(ids)), None)
        if length is None:
            continue
        first = len(parts[0].ids)
        offsets = parts[1].offsets
        query, start, end = ([-1] * MAX_SLOTS for _ in range(3))
        position = first + len(offsets) + len(parts[2].ids)
        for column, slot in enumerate(slots):
            position += len(parts[3 + 2 * column].ids)
            query[column] = position - 1
            position += len(parts[4 + 2 * column].ids)
            if slot in drawn.spans:
                low, high = drawn.spans[slot]
                hit = [i for i, (a, b) in enumerate(offsets) if a < high and b > low]
                start[column], end[column] = first + hit[0], first + hit[-1]
        ids += [0] * (length - len(ids))
        rows[length].append((ids, (first, first + len(offsets)), query, start, end))
    return [_stack(group) for group in rows.values() if group]


def _stack(rows: list[tuple]) -> ProbeBatch:
    ids, *rest = zip(*rows, strict=True)
    return ProbeBatch(np.array(ids, dtype=np.uint16), *(np.array(column, dtype=np.int16) for column in rest))


class Source:
    """A pool that yields shards in a fixed order, so that a run can be repeated."""

    def __init__(self, tokenizer: Path, disturbance: Callable[[], Disturbance], *, processes: int) -> None:
        # each process reads its own vocabulary: pickled into their pipes, it would start them one after the other
        context = multiprocessing.get_context("spawn")
        self._pool = context.Pool(processes, _start_worker, (str(tokenizer), disturbance))

    def base(self, *, shards: int, documents: int = 8_000) -> Iterator[np.ndarray]:
        """Yield ``shards`` streams of token ids."""
        return self._pool.imap(_base_shard, [(seed, documents) for seed in range(shards)])

    def probe(self, *, shards: int, seed: int, examples: int = 20_000) -> Iterator[list[ProbeBatch]]:
        """Yield ``shards`` lists of batches, one for each padded length that occurs; ``seed`` is that of the first."""
        return self._pool.imap(_probe_shard, [(seed + shard, examples) for shard in range(shards)])

    def validation(self, *, examples: int = 4_000) -> list[ProbeBatch]:
        """Return batches that training never sees, one for each padded length that occurs."""
        return self._pool.apply(_validation_shard, (examples,))

    def close(self) -> None:
        """End the processes."""
        self._pool.terminate()
