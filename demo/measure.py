"""Measures the demo bundle on this machine: ``python -m demo.measure [--draw N]``.

Exact match is upstream's: over slots present in gold, right when predicted present and the decoded strings are equal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from backend.bundle import DEMO, Bundle, load_bundle
from backend.metrics import Metrics, measure
from backend.probe import Probe, SlotPrediction
from backend.prompt import PromptBuilder
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.scoring import load_examples, predict_all, slot_rows
from demo.generate import write_held_out

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


def report(bundle: Bundle, probe: Probe, runtime: HFRuntime, path: Path) -> dict[str, float]:
    """Return the figures of one file of examples."""
    examples, prompts = load_examples(replace(bundle, dataset=path), probe.builder)
    rows = predict_all(probe, runtime, prompts, ForwardOptions())
    normalized = predict_all(probe, runtime, prompts, ForwardOptions(normalize=True))
    without = predict_all(probe, runtime, prompts, ForwardOptions(lora=False))
    found = figures(len(examples), score(examples, prompts, rows, probe.builder)) | compare(rows, normalized)
    for label, other in (("normalized", normalized), ("lora_off", without)):
        found[f"exact_match_{label}"] = score(examples, prompts, other, probe.builder).decoded
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", type=int, metavar="N", help="measure N more utterances of the held-out side, drawn anew")
    arguments = parser.parse_args()
    bundle = load_bundle(DEMO)
    probe, runtime = bundle.load_probe(), HFRuntime.load(bundle.runtimes[0])
    found = {name: report(bundle, probe, runtime, bundle.folder / f"{name}.jsonl") for name in ("heldout", "handwritten")}
    if arguments.draw:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "drawn.jsonl"
            write_held_out(path, n_examples=arguments.draw, seed="another draw")
            found["drawn"] = report(bundle, probe, runtime, path)
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
