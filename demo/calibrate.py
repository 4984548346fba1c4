"""Moves the null bias to where presence is told best on withheld utterances: ``python -m demo.calibrate``.

Training weighs a missed presence more than a false one, which leaves the threshold where that loss wants it. Wordings
and values of the validation side decide; the held-out side is not looked at.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from backend.bundle import DEMO, load_bundle
from backend.dataset import read_examples
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from demo.split import Side
from demo.utterances import FUNCTIONS, example

EXAMPLES = 4000
SHIFTS = np.arange(-2.0, 2.01, 0.1)  # of the margin, present against absent


def margins(n_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every slot's null margin and whether it is present, over withheld utterances."""
    bundle = load_bundle(DEMO)
    probe, schemas, runtime = bundle.load_probe(), load_schemas(bundle.schemas), HFRuntime.load(bundle.runtimes[0])
    rng, names = random.Random("calibration"), sorted(FUNCTIONS)
    lines = (json.dumps(example(rng.choice(names), rng, side=Side.VALIDATION).as_json()) for _ in range(n_examples))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "withheld.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        examples = list(read_examples(path, schemas))
    prompts = probe.builder.build_many([(schemas[e.function], e.utterance) for e in examples])
    answers = probe.predict_batch(prompts, runtime.forward([p.ids for p in prompts], ForwardOptions()))
    pairs = [
        (slot.null_margin, slot.slot in {gold.slot for gold in made.gold})
        for made, slots in zip(examples, answers, strict=True)
        for slot in slots
    ]
    found, gold = zip(*pairs, strict=True)
    return np.array(found), np.array(gold)


def main() -> None:
    """Print the curve and write the heads with the best bias."""
    found, gold = margins(EXAMPLES)
    accuracy = [float(((found + shift >= 0) == gold).mean()) for shift in SHIFTS]
    best = float(SHIFTS[int(np.argmax(accuracy))])
    now = float(((found >= 0) == gold).mean())
    print(f"presence {now:.4f}, at best {max(accuracy):.4f} with the margin moved by {best:+.1f} (n = {len(gold)} slots)")
    path = DEMO / "probe_heads.pt"
    heads = torch.load(path, weights_only=True)
    heads["null_head"]["classifier.bias"] += torch.tensor([best / 2, -best / 2], dtype=torch.float16)
    torch.save(heads, path)


if __name__ == "__main__":
    main()
