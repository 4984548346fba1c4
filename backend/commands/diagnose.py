"""`python -m backend diagnose`: which factor caused one answer."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.bundle import load_bundle
from backend.check_files import file_checks
from backend.commands import arguments as shared
from backend.diagnosis import Arm, diagnose
from backend.diagnosis_types import Diagnosis
from backend.errors import InputError
from backend.norms import norm_stats
from backend.pool import Pool
from backend.runtimes.base import ForwardOptions
from backend.schema import get_schema, load_schemas
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
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict of every slot, or of one."""
    bundle = load_bundle(arguments.bundle)
    function, utterance, gold = _question(arguments)
    schema = get_schema(load_schemas(bundle.schemas), function)
    if arguments.slot is not None and arguments.slot not in schema.slot_names:
        raise InputError("No slot of that name", found=arguments.slot, remedy=f"Slots: {', '.join(schema.slot_names)}.")
    specs = [bundle.runtime(arguments.baseline or bundle.runtimes[0].name), bundle.runtime(arguments.candidate)]
    probe = bundle.load_probe()
    prompt = probe.builder.build(schema, utterance)
    with Pool() as pool:
        options = ForwardOptions(normalize=arguments.normalize, lora=not arguments.no_lora)
        files = tuple(file_checks(specs[1], bundle.base, trained=bundle.adapter))
        arms = [Arm(pool.get(specs[0]), ForwardOptions()), Arm(pool.get(specs[1]), options, file_checks=files)]
        found = diagnose(probe, prompt, *arms, gold=gold)
        states = [arm.runtime.forward([prompt.ids], arm.options)[0] for arm in arms]
    norms = {spec.name: asdict(norm_stats(rows)) for spec, rows in zip(specs, states, strict=True)}
    verdicts = [v for v in found.verdicts if arguments.slot in (None, v.slot)]
    if arguments.json:
        report = {"verdicts": [asdict(v) for v in verdicts], "ladder": _ladder(found), "norms": norms}
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        for verdict in verdicts:
            print(f"{verdict.slot}: {verdict.cause} (confidence {verdict.confidence:.2f})")
            for evidence in verdict.evidence:
                print(f"  {evidence.name}: {evidence.observed}, expected {evidence.expected}")
            print(f"  {verdict.remedy}")
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


def _ladder(found: Diagnosis) -> list[dict[str, Any]]:
    return [
        {"factor": step.factor, "changed": list(step.changed), "answers": {slot.slot: slot.value for slot in step.slots}}
        for step in found.ladder
    ]
