"""`python -m backend check`: health of runtimes; exit code 3 when a check fails."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from backend.bundle import Bundle, load_bundle
from backend.check_types import Check
from backend.checks import check_runtime
from backend.commands import arguments as shared
from backend.errors import BackendError, CheckFailed
from backend.pool import Pool
from backend.quick_score import load_examples
from backend.runtimes.base import RuntimeSpec
from backend.schema import load_schemas

N_PROMPTS = 12


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="check the health of runtimes")
    shared.add_bundle(parser)
    shared.add_runtimes(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check runtimes one by one; the first of the bundle is the baseline."""
    bundle = load_bundle(arguments.bundle)
    specs = shared.chosen(bundle, arguments.runtime, default_all=True)
    with Pool() as pool:
        results = {spec.name: check_spec(pool, bundle, spec) for spec in specs}
    if arguments.json:
        print(json.dumps({name: [asdict(check) for check in checks] for name, checks in results.items()}, indent=2))
    else:
        print("\n".join(line for name, checks in results.items() for line in _lines(name, checks)))
    failed = [f"{name}: {check.name}" for name, checks in results.items() for check in checks if not check.passed]
    return CheckFailed.exit_code if failed else 0


def check_spec(pool: Pool, bundle: Bundle, spec: RuntimeSpec) -> list[Check]:
    """Check one runtime of a bundle; one that cannot be loaded is a failed check."""
    probe = bundle.load_probe()
    try:
        runtime = pool.get(spec)
        baseline = pool.get(bundle.runtimes[0])
    except BackendError as error:
        return [Check("loads", False, str(error), "a live runtime", error.remedy)]
    ids = check_prompts(bundle)
    return check_runtime(
        runtime, baseline, ids, d_heads=probe.heads.d_model, base_model=bundle.base, trained=bundle.adapter
    )


def check_prompts(bundle: Bundle) -> list[tuple[int, ...]]:
    """Return prompts to check with: of the evaluation set, or of the schemas where there is none."""
    if bundle.dataset is not None:
        return [prompt.ids for prompt in load_examples(bundle, limit=N_PROMPTS)[1]]
    builder = bundle.load_probe().builder
    schemas = sorted(load_schemas(bundle.schemas).values(), key=lambda schema: schema.name)[:N_PROMPTS]
    texts = [f"{schema.description or schema.name}, please, for {' and '.join(schema.slot_names)}" for schema in schemas]
    return [prompt.ids for prompt in builder.build_many(list(zip(schemas, texts, strict=True)))]


def _lines(name: str, checks: list[Check]) -> list[str]:
    lines = [name]
    for check in checks:
        lines.append(f"  {'ok  ' if check.passed else 'FAIL'} {check.name}: {check.observed}")
        if not check.passed:
            lines.append(f"       expected {check.expected}. {check.remedy}")
    return lines
