"""The command line: `python -m backend predict`. Exit codes: 0 fine, 2 wrong input or prerequisite, 3 failed check."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.errors import BackendError

DEMO = Path(__file__).resolve().parent.parent / "demo" / "bundle"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a `BackendError` becomes one message on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        report = _predict(arguments)
    except BackendError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(report, ensure_ascii=False, indent=2) if arguments.json else _table(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backend")
    predict = parser.add_subparsers(dest="command", required=True).add_parser("predict", help="read the slots of a text")
    predict.add_argument("--bundle", type=Path, default=DEMO)
    predict.add_argument("--function", required=True)
    predict.add_argument("--utterance", required=True)
    predict.add_argument("--runtime", action="append", default=[])
    predict.add_argument("--normalize", action="store_true")
    predict.add_argument("--no-lora", action="store_true")
    predict.add_argument("--decoding", choices=["upstream", "joint"], default="upstream")
    predict.add_argument("--json", action="store_true")
    return parser


def _predict(arguments: argparse.Namespace) -> dict[str, Any]:
    from backend.bundle import load_bundle
    from backend.norms import norm_stats
    from backend.probe import Decoding
    from backend.runtimes.base import ForwardOptions
    from backend.runtimes.hf import HFRuntime
    from backend.schema import get_schema, load_schemas

    bundle = load_bundle(arguments.bundle)
    schema = get_schema(load_schemas(bundle.schemas), arguments.function)
    specs = [bundle.runtime(name) for name in arguments.runtime or [bundle.runtimes[0].name]]
    probe = bundle.load_probe()
    prompt = probe.builder.build(schema, arguments.utterance)
    options = ForwardOptions(normalize=arguments.normalize, lora=not arguments.no_lora)
    runs = []
    for spec in specs:
        runtime = HFRuntime.load(spec)
        started = time.perf_counter()
        states = runtime.forward([prompt.ids], options)[0]
        slots = probe.predict(prompt, states, decoding=Decoding(arguments.decoding))
        latency = (time.perf_counter() - started) * 1000
        runtime.close()
        stats = asdict(norm_stats(states))
        runs.append(
            {
                "runtime": spec.name,
                "options": {"normalize": options.normalize, "lora": options.lora},
                "latency_ms": round(latency, 2),
                "norms": {name: stats[name] for name in ("n", "mean", "std", "min", "max", "cv")},
                "slots": {slot.slot: _slot(slot) for slot in slots},
            }
        )
    return {"function": schema.name, "utterance": arguments.utterance, "runs": runs}


def _slot(slot: Any) -> dict[str, Any]:
    return {
        "present": slot.present,
        "value": slot.value,
        "token_span": [slot.pointer.start, slot.pointer.end] if slot.present else None,
        "char_span": [slot.char_span.start, slot.char_span.end] if slot.present else None,
        "null_logits": list(slot.null_logits),
        "start_score": slot.start_score,
        "end_score": slot.end_score,
    }


def _table(report: dict[str, Any]) -> str:
    lines = []
    for run in report["runs"]:
        lines.append(f"{run['runtime']}  {run['latency_ms']} ms  mean norm {run['norms']['mean']:.2f}")
        lines += [f"  {name}: {slot['value'] if slot['present'] else '(absent)'}" for name, slot in run["slots"].items()]
    return "\n".join(lines)
