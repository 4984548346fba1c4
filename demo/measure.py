"""Measures the demo bundle on this machine: ``python -m demo.measure``.

Exact match is upstream's: over slots present in gold, right when predicted present and the decoded strings are equal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from backend.bundle import DEMO, load_bundle
from backend.probe import Probe, SlotPrediction
from backend.prompt import Prompt, PromptBuilder, Span
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas

Rows = list[tuple[SlotPrediction, ...]]


def read(path: Path, builder: PromptBuilder, schemas: dict) -> tuple[list[Prompt], list[dict]]:
    """Return the prompts and the gold slots of an evaluation set."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = builder.build_many([(schemas[r["function"]], r["utterance"]) for r in records])
    return prompts, [r["slots"] for r in records]


def predict(prompts: list[Prompt], runtime: Runtime, probe: Probe, options: ForwardOptions) -> Rows:
    """Return the predictions of all prompts, in their order, 64 at a time."""
    rows: Rows = []
    for start in range(0, len(prompts), 64):
        batch = prompts[start : start + 64]
        rows += probe.predict_batch(batch, runtime.forward([p.ids for p in batch], options))
    return rows


def score(prompts: list[Prompt], gold: list[dict], rows: Rows, builder: PromptBuilder) -> dict[str, float]:
    """Return n, exact match, presence accuracy and the share of gold values that decode to another string."""
    right = present = agreed = slots = differs = 0
    for prompt, labels, predictions in zip(prompts, gold, rows, strict=True):
        for found in predictions:
            label = labels.get(found.slot)
            slots += 1
            agreed += found.present == (label is not None)
            if label is not None:
                tokens = prompt.token_span(Span(label["char_start"], label["char_end"]))
                decoded = builder.decode_span(prompt, tokens)
                present += 1
                differs += decoded != label["value"]
                right += found.present and found.pointer_value == decoded
    return {
        "n_examples": len(prompts),
        "n_present": present,
        "n_slots": slots,
        "exact_match": right / present,
        "presence_accuracy": agreed / slots,
        "absent": 1 - present / slots,
        "decoded_differs_from_raw": differs / present,
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
        prompts, gold = read(bundle.folder / f"{name}.jsonl", builder, schemas)
        rows = predict(prompts, runtime, probe, ForwardOptions())
        normalized = predict(prompts, runtime, probe, ForwardOptions(normalize=True))
        without = predict(prompts, runtime, probe, ForwardOptions(lora=False))
        report[name] = score(prompts, gold, rows, builder) | compare(rows, normalized)
        for label, other in (("normalized", normalized), ("lora_off", without)):
            report[name][f"exact_match_{label}"] = score(prompts, gold, other, builder)["exact_match"]
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
