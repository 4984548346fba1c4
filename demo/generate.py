"""Writes the schemas and the frozen held-out set of the demo: ``python -m demo.generate``.

Functions whose values carry brackets and signs come more often, so that decoded gold and raw label differ as often as
in a deployment that reads coordinates; MODEL_CARD.md gives the mix.
"""

from __future__ import annotations

import json
import random

from demo.split import Side
from demo.utterances import FUNCTIONS, example
from demo.values import HERE

EXAMPLES = 1500
_WEIGHTS = {"distance_between": 11, "reflect_point": 18, "observe_sky": 4}
_MATHEMATICS = ("integrate", "differentiate", "evaluate_expression", "solve_equation", "split_bill", "call_api")


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


def main() -> None:
    """Write both files into ``demo/bundle``."""
    rng = random.Random("held out")
    names = sorted(FUNCTIONS)
    weights = [_WEIGHTS.get(name, 2 if name in _MATHEMATICS else 1) for name in names]
    chosen: dict[str, object] = {}
    while len(chosen) < EXAMPLES:
        made = example(rng.choices(names, weights)[0], rng, side=Side.HELD_OUT)
        chosen.setdefault(made.utterance, made.as_json())
    bundle = HERE / "bundle"
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in chosen.values())
    (bundle / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")
    text = json.dumps(schemas(), ensure_ascii=False, indent=1)
    (bundle / "function_schemas.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
