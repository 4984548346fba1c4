"""Exact match of one runtime on the first examples of a bundle's evaluation set, without a store."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from backend.bundle import Bundle
from backend.dataset import Example, read_examples
from backend.errors import InputError
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.runtimes.load import load_runtime
from backend.schema import load_schemas

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Score:
    """Exact match over slots that are present in gold."""

    right: int
    n: int

    @property
    def rate(self) -> float:
        """Return the share; there is always at least one slot."""
        return self.right / self.n


def load_examples(bundle: Bundle, *, limit: int | None = None) -> tuple[list[Example], list[Prompt]]:
    """Return examples of the evaluation set with their prompts; raises `InputError` if there is none."""
    if bundle.dataset is None:
        raise InputError("The bundle has no evaluation set", remedy="Add dataset to bundle.toml.")
    schemas = load_schemas(bundle.schemas)
    examples = list(islice(read_examples(bundle.dataset, schemas), limit))
    builder = bundle.load_probe().builder
    return examples, builder.build_many([(schemas[e.function], e.utterance) for e in examples])


def exact_match(bundle: Bundle, spec: RuntimeSpec, *, limit: int, options: ForwardOptions | None = None) -> Score:
    """Load a runtime, score it, close it; raises `InputError` where no slot is present in the examples."""
    runtime = load_runtime(spec)
    try:
        return score(bundle, runtime, *load_examples(bundle, limit=limit), options=options or ForwardOptions())
    finally:
        runtime.close()


def score(
    bundle: Bundle, runtime: Runtime, examples: list[Example], prompts: list[Prompt], *, options: ForwardOptions
) -> Score:
    """Score a live runtime."""
    probe = bundle.load_probe()
    right = n = 0
    for at in range(0, len(prompts), _BATCH):
        batch = prompts[at : at + _BATCH]
        found = probe.predict_batch(batch, runtime.forward([p.ids for p in batch], options))
        for example, prompt, slots in zip(examples[at : at + _BATCH], batch, found, strict=True):
            values = {slot.slot: slot.value for slot in slots}
            for gold in example.gold:
                n += 1
                right += values[gold.slot] == probe.builder.decode_span(prompt, prompt.token_span(gold.chars))
    if n == 0:
        raise InputError("No slot is present in these examples", remedy="Use more examples.")
    return Score(right, n)
