"""Moves the null bias to where withheld utterances are read best: ``python -m demo.calibrate``.

Training leaves the threshold where its loss wants it. The demo is judged by two figures, exact match and presence
accuracy; the threshold with the best mean of both is taken. Wordings and values of the validation side decide; the
held-out side is not looked at.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.bundle import DEMO, load_bundle
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.scoring import load_examples, predict_all, slot_rows
from demo.split import Side
from demo.utterances import FUNCTIONS, example

EXAMPLES = 4000
SHIFTS = np.arange(-2.0, 2.01, 0.1)  # of the margin, present against absent


def write_withheld(path: Path, n_examples: int) -> None:
    """Write utterances of the validation side, one JSON object a line."""
    rng, names = random.Random("calibration"), sorted(FUNCTIONS)
    lines = (json.dumps(example(rng.choice(names), rng, side=Side.VALIDATION).as_json()) for _ in range(n_examples))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_slots(n_examples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of every slot its null margin, whether gold has it, and whether its pointer reads what gold decodes to."""
    bundle = load_bundle(DEMO)
    probe, runtime = bundle.load_probe(), HFRuntime.load(bundle.runtimes[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "withheld.jsonl"
        write_withheld(path, n_examples)
        examples, prompts = load_examples(replace(bundle, dataset=path), probe.builder)
    answers = predict_all(probe, runtime, prompts, ForwardOptions())
    read = [
        (slot.null_margin, row.gold_present, slot.pointer_value == row.gold_decoded)
        for made, prompt, slots in zip(examples, prompts, answers, strict=True)
        for slot, row in zip(slots, slot_rows(made, prompt, slots, probe.builder), strict=True)
    ]
    margin, present, pointed = map(np.array, zip(*read, strict=True))
    return margin, present, pointed


def main() -> None:
    """Print the curve and write the heads with the best bias."""
    margin, present, pointed = read_slots(EXAMPLES)
    said = margin + SHIFTS[:, None] >= 0  # [shifts, slots]
    accuracy = (said == present).mean(axis=1)
    exact = (said & pointed)[:, present].mean(axis=1)
    best = int(np.argmax(exact + accuracy))
    for shift, right, agreed in zip(SHIFTS, exact, accuracy, strict=True):
        print(f"margin {shift:+.1f}: exact match {right:.4f}, presence {agreed:.4f}")
    print(f"taken: {SHIFTS[best]:+.1f} (n = {len(present)} slots, {present.sum()} present)")
    path = DEMO / "probe_heads.pt"
    heads = torch.load(path, weights_only=True)
    heads["null_head"]["classifier.bias"] += torch.tensor([1.0, -1.0], dtype=torch.float16) * SHIFTS[best] / 2
    torch.save(heads, path)


if __name__ == "__main__":
    main()
