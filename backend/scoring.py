"""Predictions against gold: the rows that metrics count, and exact match of a runtime without a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from backend.bundle import Bundle
from backend.dataset import Example, GoldSlot, read_examples
from backend.errors import InputError
from backend.metrics import Metrics, SlotRow, measure
from backend.probe import Probe, SlotPrediction
from backend.prompt import Prompt, PromptBuilder, Span
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.runtimes.load import load_runtime
from backend.schema import load_schemas

_BATCH = 64


def load_examples(
    bundle: Bundle, builder: PromptBuilder, *, limit: int | None = None
) -> tuple[list[Example], list[Prompt]]:
    """Return examples of the evaluation set with their prompts; raises `InputError` if there is none."""
    if bundle.dataset is None:
        raise InputError("The bundle has no evaluation set", remedy="Add dataset to bundle.toml.")
    schemas = load_schemas(bundle.schemas)
    examples = list(islice(read_examples(bundle.dataset, schemas), limit))
    return examples, builder.build_many([(schemas[e.function], e.utterance) for e in examples])


def predict_all(
    probe: Probe, runtime: Runtime, prompts: Sequence[Prompt], options: ForwardOptions
) -> list[tuple[SlotPrediction, ...]]:
    """Return the predictions of all prompts, in their order; states are dropped batch by batch."""
    found: list[tuple[SlotPrediction, ...]] = []
    for at in range(0, len(prompts), _BATCH):
        batch = prompts[at : at + _BATCH]
        found += probe.predict_batch(batch, runtime.forward([p.ids for p in batch], options))
    return found


@dataclass(frozen=True, slots=True)
class SlotLabel:
    """Gold of one slot as predictions are compared with it; texts are empty where the slot is absent."""

    slot: str
    present: bool
    tokens: Span | None  # prompt tokens that overlap the label's characters
    chars: Span | None  # code points of the utterance
    decoded: str  # text of the gold tokens
    raw: str  # the label as the file has it


def labels_of(gold: Sequence[GoldSlot], prompt: Prompt, builder: PromptBuilder) -> tuple[SlotLabel, ...]:
    """Return the gold of every slot of a prompt, in slot order; raises `InputError` for a span that touches no token."""
    by_slot = {g.slot: g for g in gold}
    labels = []
    for name in prompt.slot_names:
        found = by_slot.get(name)
        if found is None:
            labels.append(SlotLabel(name, False, None, None, "", ""))
        else:
            tokens = prompt.token_span(found.chars)
            labels.append(SlotLabel(name, True, tokens, found.chars, builder.decode_span(prompt, tokens), found.value))
    return tuple(labels)


def decoded_gold(gold: Sequence[GoldSlot], prompt: Prompt, builder: PromptBuilder) -> dict[str, tuple[str, str]]:
    """Return ``{slot: (text of the gold tokens, raw label)}``."""
    return {label.slot: (label.decoded, label.raw) for label in labels_of(gold, prompt, builder) if label.present}


def slot_row(label: SlotLabel, prediction: SlotPrediction) -> SlotRow:
    """Put a prediction beside its gold."""
    return SlotRow(
        gold_present=label.present,
        present=prediction.present,
        tokens_equal=label.tokens == prediction.pointer,
        value=prediction.value or "",
        gold_decoded=label.decoded,
        gold_raw=label.raw,
    )


def slot_rows(
    example: Example, prompt: Prompt, slots: Sequence[SlotPrediction], builder: PromptBuilder
) -> Iterator[SlotRow]:
    """Yield one row a slot, in slot order."""
    yield from map(slot_row, labels_of(example.gold, prompt, builder), slots)


def score(probe: Probe, runtime: Runtime, examples: Sequence[Example], prompts: Sequence[Prompt]) -> Metrics:
    """Measure a live runtime, LoRA on; raises `InputError` where no slot is present in the examples."""
    found = predict_all(probe, runtime, prompts, ForwardOptions())
    rows = (slot_rows(*each, probe.builder) for each in zip(examples, prompts, found, strict=True))
    metrics = measure(row for example in rows for row in example)
    if metrics.n_present == 0:
        raise InputError("No slot is present in these examples", remedy="Use more examples.")
    return metrics


def score_spec(probe: Probe, spec: RuntimeSpec, examples: Sequence[Example], prompts: Sequence[Prompt]) -> Metrics:
    """Load a runtime, score it, close it; raises as loading and `score` do."""
    runtime = load_runtime(spec)
    try:
        return score(probe, runtime, examples, prompts)
    finally:
        runtime.close()
