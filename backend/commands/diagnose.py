"""`python -m backend diagnose`: which factor caused one answer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.diagnose_request import Request, run_request
from backend.diagnosis_types import Diagnosis
from backend.errors import InputError
from backend.pool import Pool
from backend.probe import Decoding
from backend.schema import get_schema, load_schemas
from backend.state_cache import StateCache
from backend.store import Store, example_of
from backend.store_path import default_store


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("diagnose", help="name the cause of one answer")
    shared.add_bundle(parser)
    parser.add_argument("--function")
    parser.add_argument("--utterance")
    parser.add_argument("--slot", help="only this slot")
    parser.add_argument("--gold", metavar="VALUE", help="the right value of --slot")
    parser.add_argument(
        "--run", type=int, dest="run_number", help="take function, utterance and gold from this evaluation run"
    )
    parser.add_argument("--example", metavar="ID", help="which example of --run")
    parser.add_argument("--store", type=Path, default=default_store())
    parser.add_argument("--baseline", metavar="NAME", help="default: the first runtime")
    parser.add_argument("--candidate", required=True, metavar="NAME")
    parser.add_argument("--normalize", action="store_true", help="the candidate normalises")
    parser.add_argument("--no-lora", action="store_true", help="the candidate leaves the adapter out")
    parser.add_argument("--decoding", choices=list(Decoding), default=Decoding.UPSTREAM, help="how the candidate decodes")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict of every slot, or of one; raises `InputError` for a slot that the function has not."""
    bundle = load_bundle(arguments.bundle)
    function, utterance, gold = _question(arguments)
    schema = get_schema(load_schemas(bundle.schemas), function)
    if arguments.slot is not None and arguments.slot not in schema.slot_names:
        raise InputError("No slot of that name", found=arguments.slot, remedy=f"Slots: {', '.join(schema.slot_names)}.")
    request = Request(
        bundle.runtime(arguments.baseline or bundle.runtimes[0].name),
        bundle.runtime(arguments.candidate),
        normalize=arguments.normalize,
        lora=not arguments.no_lora,
        decoding=Decoding(arguments.decoding),
    )
    probe = bundle.load_probe()
    prompt = probe.builder.build(schema, utterance)
    with Pool() as pool:
        found = run_request(bundle, probe, pool, prompt, request, cache=StateCache(), gold=gold)
    if arguments.json:
        print(json.dumps(_report(found, arguments.slot), ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(found, arguments.slot)))
    return 0


def _question(arguments: argparse.Namespace) -> tuple[str, str, dict[str, tuple[str, str]] | None]:
    """Return function, utterance and gold, from the arguments or from a run."""
    if arguments.run_number is None or arguments.example is None:
        if arguments.function is None or arguments.utterance is None:
            raise InputError("Nothing to diagnose", remedy="Give --function and --utterance, or --run and --example.")
        if arguments.gold is not None and arguments.slot is None:
            raise InputError("A gold value belongs to a slot", remedy="Add --slot.")
        gold = {arguments.slot: (arguments.gold, arguments.gold)} if arguments.gold is not None else None
        return arguments.function, arguments.utterance, gold
    with Store(arguments.store) as store:
        return example_of(store, arguments.run_number, arguments.example)


def _report(found: Diagnosis, slot: str | None) -> dict[str, Any]:
    steps = [
        {
            "factor": step.factor,
            "changed": list(step.changed),
            "answers": {prediction.slot: prediction.value for prediction in step.slots},
            # with --slot gold is that slot's alone
            "right": {p.slot: right for p, right in zip(step.slots, step.right, strict=True) if slot in (None, p.slot)},
        }
        for step in found.ladder
    ]
    norms = {side: {"runtime": arm.runtime, **asdict(arm.norms)} for side, arm in zip(_SIDES, found.arms, strict=False)}
    return {
        "verdicts": [asdict(v) for v in found.verdicts if slot in (None, v.slot)],
        "faults": [asdict(finding) for finding in found.faults],
        "ladder": steps,
        "shares": {s.slot: dict(s.shares) for s in found.shares if slot in (None, s.slot)},
        "norms": norms,
    }


_SIDES = ("baseline", "candidate")


def _lines(found: Diagnosis, slot: str | None) -> Iterator[str]:
    for verdict in found.verdicts:
        if slot in (None, verdict.slot):
            yield f"{verdict.slot}: {verdict.cause} (confidence {verdict.confidence:.2f})"
            for evidence in verdict.evidence:
                yield f"  {evidence.name}: {evidence.observed}, expected {evidence.expected}"
            yield f"  {verdict.remedy}"
    for step in found.ladder[1:]:
        yield f"step {step.factor}: changes {', '.join(step.changed) or 'nothing'}"
    for shares in found.shares:
        if slot in (None, shares.slot) and shares.order_matters:
            listed = ", ".join(f"{factor} {share:.2f}" for factor, share in shares.shares)
            yield f"{shares.slot}: the order of steps matters; shares {listed}"
