"""`python -m backend predict`: the slots of one text."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from backend.answers import answer_text
from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.errors import BackendError
from backend.inference import RuntimeRun
from backend.inference import run as run_prompt
from backend.pool import Pool
from backend.probe import Decoding, SlotPrediction
from backend.runtimes.base import ForwardOptions
from backend.schema import get_schema, load_schemas


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("predict", help="read the slots of a text")
    shared.add_bundle(parser)
    shared.add_runtimes(parser)
    parser.add_argument("--function", required=True)
    parser.add_argument("--utterance", required=True)
    parser.add_argument("--normalize", action="store_true", help="divide each token's state by its L2 norm")
    parser.add_argument("--no-lora", action="store_true", help="leave the adapter out")
    parser.add_argument("--decoding", choices=list(Decoding), default=Decoding.UPSTREAM)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what each runtime read; one that fails is named on stderr, and the others answer all the same."""
    bundle = load_bundle(arguments.bundle)
    schema = get_schema(load_schemas(bundle.schemas), arguments.function)
    specs = shared.chosen(bundle, arguments.runtime)
    probe = bundle.load_probe()
    prompt = probe.builder.build(schema, arguments.utterance)
    options = ForwardOptions(normalize=arguments.normalize, lora=not arguments.no_lora)
    decoding = Decoding(arguments.decoding)
    runs: list[RuntimeRun] = []
    failed: dict[str, BackendError] = {}
    with Pool() as pool:
        for spec in specs:
            try:
                runs.append(run_prompt(probe, prompt, pool.get(spec), options, decoding=decoding))
            except BackendError as error:
                failed[spec.name] = error
    if arguments.json and runs:  # a reader of JSON gets none where nothing answered
        report = {"function": schema.name, "utterance": arguments.utterance, "runs": [_as_json(made) for made in runs]}
        if failed:
            report["failed"] = {name: str(why) for name, why in failed.items()}
        print(json.dumps(report, ensure_ascii=False, indent=2))
    elif runs:
        print("\n".join(_as_text(made) for made in runs))
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return max((why.exit_code for why in failed.values()), default=0)


def _as_json(made: RuntimeRun) -> dict[str, Any]:
    return {
        "runtime": made.runtime,
        "options": {"normalize": made.options.normalize, "lora": made.options.lora},
        "latency_ms": round(made.latency_ms, 2),
        "norms": {name: getattr(made.norms, name) for name in ("n", "mean", "std", "min", "max", "cv")},
        "slots": {slot.slot: _slot(slot) for slot in made.slots},
    }


def _slot(slot: SlotPrediction) -> dict[str, Any]:
    return {
        "present": slot.present,
        "value": slot.value,
        "token_span": [slot.pointer.start, slot.pointer.end] if slot.present else None,
        "char_span": [slot.char_span.start, slot.char_span.end] if slot.present else None,
        "null_logits": list(slot.null_logits),
        "start_score": slot.start_score,
        "end_score": slot.end_score,
    }


def _as_text(made: RuntimeRun) -> str:
    lines = [f"{made.runtime}  {made.latency_ms:.1f} ms  mean norm {made.norms.mean:.2f}"]
    return "\n".join([*lines, *(f"  {s.slot}: {answer_text(s.value)}" for s in made.slots)])
