"""Measures the demo bundle on this machine: ``python -m demo.measure``.

Exact match is upstream's: over slots present in gold, right when predicted present and the decoded strings are equal.
"""

from __future__ import annotations

import json
import sys

from backend.bundle import DEMO, load_bundle
from backend.dataset import read_examples
from backend.metrics import Metrics, measure
from backend.probe import SlotPrediction
from backend.prompt import PromptBuilder
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from backend.scoring import predict_all, slot_rows

Rows = list[tuple[SlotPrediction, ...]]


def score(examples: list, prompts: list, rows: Rows, builder: PromptBuilder) -> Metrics:
    """Count all slots of all examples."""
    counted = (slot_rows(*each, builder) for each in zip(examples, prompts, rows, strict=True))
    return measure(row for example in counted for row in example)


def figures(n_examples: int, metrics: Metrics) -> dict[str, float]:
    """Return n, exact match, presence accuracy and the share of gold values that decode to another string."""
    return {
        "n_examples": n_examples,
        "n_present": metrics.n_present,
        "n_slots": metrics.n_slots,
        "exact_match": metrics.decoded,
        "presence_accuracy": metrics.presence_accuracy,
        "absent": 1 - metrics.n_present / metrics.n_slots,
        "decoded_differs_from_raw": 1 - metrics.oracle_raw,
    }


def compare(rows: Rows, normalized: Rows) -> dict[str, float]:
    """Return the share of slots whose presence flips and of pointers that stay when states are normalised."""
    pairs = [(a, b) for x, y in zip(rows, normalized, strict=True) for a, b in zip(x, y, strict=True)]
    return {
        "presence_flips": sum(a.present != b.present for a, b in pairs) / len(pairs),
        "pointers_stay": sum(a.pointer == b.pointer for a, b in pairs) / len(pairs),
    }


def main() -> None:
    """Print the figures as JSON."""
    bundle = load_bundle(DEMO)
    probe, schemas = bundle.load_probe(), load_schemas(bundle.schemas)
    builder = probe.builder
    runtime = HFRuntime.load(bundle.runtimes[0])
    report: dict[str, dict[str, float]] = {}
    for name in ("heldout", "handwritten"):
        examples = list(read_examples(bundle.folder / f"{name}.jsonl", schemas))
        prompts = builder.build_many([(schemas[e.function], e.utterance) for e in examples])
        rows = predict_all(probe, runtime, prompts, ForwardOptions())
        normalized = predict_all(probe, runtime, prompts, ForwardOptions(normalize=True))
        without = predict_all(probe, runtime, prompts, ForwardOptions(lora=False))
        report[name] = figures(len(examples), score(examples, prompts, rows, builder)) | compare(rows, normalized)
        for label, other in (("normalized", normalized), ("lora_off", without)):
            report[name][f"exact_match_{label}"] = score(examples, prompts, other, builder).decoded
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
