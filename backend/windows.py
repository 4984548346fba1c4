"""A window of the dataset in memory: examples, prompts and gold, each made once for all runtimes; rows to store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.dataset import Example, Skipped
from backend.errors import InputError
from backend.metrics import judge
from backend.probe import SlotPrediction
from backend.prompt import Prompt, PromptBuilder
from backend.schema import FunctionSchema
from backend.scoring import SlotLabel, labels_of, slot_row
from backend.store_schema import AnswerRow, ExampleRow, LabelRow


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive examples; all sequences have one entry an example."""

    start: int  # number of the first example
    examples: Sequence[Example]
    prompts: Sequence[Prompt]
    labels: Sequence[tuple[SlotLabel, ...]]
    kinds: Mapping[tuple[str, str], str]  # by function and slot

    def example_rows(self, places: Sequence[int]) -> Iterator[ExampleRow]:
        """Yield the rows of the examples at these places."""
        for place in places:
            example = self.examples[place]
            n_tokens = len(self.prompts[place].ids)
            yield ExampleRow(self.start + place, example.id, example.function, example.utterance, n_tokens)

    def label_rows(self, places: Sequence[int]) -> Iterator[LabelRow]:
        """Yield the gold of the examples at these places."""
        for place in places:
            for label in self.labels[place]:
                chars = (label.chars.start, label.chars.end) if label.chars else (None, None)
                kind = self.kinds[self.examples[place].function, label.slot]
                yield LabelRow(self.start + place, label.slot, kind, label.present, label.decoded, label.raw, *chars)


def make_window(
    examples: Sequence[Example],
    schemas: Mapping[str, FunctionSchema],
    builder: PromptBuilder,
    *,
    start: int = 1,
    skipped: Skipped | None = None,
) -> Window:
    """Tokenise examples and decode their gold.

    Args:
        examples: as the dataset has them.
        schemas: their functions.
        builder: of the bundle's tokenizer.
        start: number of the first example.
        skipped: where to count examples that cannot be asked; without it the first one is an error.

    Raises:
        InputError: an utterance has more tokens than the runtimes take, or a gold span touches none.
    """
    kinds = {(f.name, slot.name): slot.kind or slot.type for f in schemas.values() for slot in f.slots}
    prompts: Sequence[Prompt | None]
    try:
        prompts = builder.build_many([(schemas[example.function], example.utterance) for example in examples])
    except InputError:
        prompts = [None] * len(examples)  # one of them is at fault; below it turns out which
    usable: list[tuple[Example, Prompt, tuple[SlotLabel, ...]]] = []
    for example, prompt in zip(examples, prompts, strict=True):
        try:
            made = prompt or builder.build(schemas[example.function], example.utterance)
            usable.append((example, made, labels_of(example.gold, made, builder)))
        except InputError as error:
            located = InputError(f"{example.where}: {error.what}", found=error.found, remedy=error.remedy)
            if skipped is None:
                raise located from error
            skipped.add(located)
    return Window(start, [u[0] for u in usable], [u[1] for u in usable], [u[2] for u in usable], kinds)


def answer_rows(
    window: Window,
    places: Sequence[int],
    predictions: Sequence[tuple[SlotPrediction, ...]],
    norms: Sequence[Sequence[float]],
) -> list[AnswerRow]:
    """Return what one cell read for the examples at these places, in the store's order; ``norms`` of raw queries."""
    rows: list[AnswerRow] = []
    for place, slots, lengths in zip(places, predictions, norms, strict=True):
        number = window.start + place
        for label, slot, norm in zip(window.labels[place], slots, lengths, strict=False):
            row = slot_row(label, slot)
            judged = judge(row)
            rows.append(
                AnswerRow(
                    number,
                    slot.slot,
                    row.gold_present,
                    row.present,
                    judged.right,
                    judged.tokens,
                    judged.normalized,
                    judged.raw,
                    judged.oracle,
                    judged.f1,
                    row.value,
                    *slot.null_logits,
                    slot.start_score,
                    slot.end_score,
                    _finite(slot.start_margin),
                    _finite(slot.end_margin),
                    slot.char_span.start,
                    slot.char_span.end,
                    norm,
                )
            )
    rows.sort()  # the table's own order: appending to its end is what SQLite does fastest
    return rows


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None
