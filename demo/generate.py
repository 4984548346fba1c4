"""Writes the schemas and the frozen held-out set of the demo: ``python -m demo.generate``.

Functions whose values carry brackets and signs come more often, so that decoded gold and raw label differ as often as
in a deployment that reads coordinates; MODEL_CARD.md gives the mix.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from demo.split import Side
from demo.utterances import FUNCTIONS, deployed, example
from demo.values import HERE

EXAMPLES = 1500


def schemas() -> dict[str, object]:
    """Return the functions in upstream's format; ``kind`` is the kind of value, for slices."""
    return {
        name: {
            "name": name,
            "description": function["description"],
            "slots": {
                slot: {"type": "string", "optional": True, "description": text, "kind": kind}
                for slot, (kind, text) in sorted(function["slots"].items())
            },
        }
        for name, function in sorted(FUNCTIONS.items())
    }


def write_held_out(path: Path, *, n_examples: int, seed: str) -> None:
    """Write different utterances whose wordings and values training never saw, one JSON object a line."""
    rng = random.Random(seed)
    chosen: dict[str, object] = {}
    while len(chosen) < n_examples:
        made = example(deployed(rng), rng, side=Side.HELD_OUT)
        chosen.setdefault(made.utterance, made.as_json())
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in chosen.values())
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write both files into ``demo/bundle``."""
    bundle = HERE / "bundle"
    write_held_out(bundle / "heldout.jsonl", n_examples=EXAMPLES, seed="held out")
    text = json.dumps(schemas(), ensure_ascii=False, indent=1)
    (bundle / "function_schemas.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
