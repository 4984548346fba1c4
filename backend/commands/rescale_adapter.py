"""`python -m backend rescale-adapter`: the adapter that fits the AWQ base, and what it changes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from backend.awq.rescale import rescale_adapter
from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.commands.quantize import local_folder
from backend.errors import InputError
from backend.runtimes.base import Engine, RuntimeSpec
from backend.scoring import load_examples, score_spec


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("rescale-adapter", help="write the adapter that fits the AWQ base")
    shared.add_bundle(parser)
    parser.add_argument("--out", type=Path, help="folder to write (default: adapter-awq in the bundle)")
    parser.add_argument("--limit", type=int, default=500, help="examples of the evaluation set to compare on; 0: none")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the adapter, then compare it on the dequantised weights, with HuggingFace in float32.

    Raises:
        InputError: the bundle has no adapter or no AWQ checkpoint.
        BundleError: as `rescale_adapter`.
    """
    bundle = load_bundle(arguments.bundle, may_lack=("awq_adapter",))
    if bundle.awq is None or bundle.adapter is None:
        raise InputError("The bundle needs an adapter and an awq checkpoint", remedy="Run `python -m backend quantize`.")
    base, awq, adapter = (local_folder(name) for name in (bundle.base, bundle.awq, bundle.adapter))
    out = arguments.out or bundle.folder / "adapter-awq"
    report = rescale_adapter(adapter, base=base, awq=awq, out=out)
    arms = {"base, original": (base, adapter), "awq, original": (awq, adapter), "awq, rescaled": (awq, out)}
    scores = {}
    if arguments.limit and bundle.dataset is not None:
        probe = bundle.load_probe()
        examples, prompts = load_examples(bundle, probe.builder, limit=arguments.limit)
        for name, (model, fitted) in arms.items():
            spec = RuntimeSpec(name, Engine.HF, str(model), "float32", adapter=str(fitted), max_tokens=bundle.max_tokens)
            scores[name] = score_spec(probe, spec, examples, prompts)
    if arguments.json:
        shown = {"max_scale_change": report.max_scale_change, "captured": report.captured, "tensors": report.n_tensors}
        print(json.dumps(shown | {"exact_match": {name: metrics.decoded for name, metrics in scores.items()}}, indent=2))
        return 0
    source = "captured while quantising" if report.captured else "estimated from the norms"
    print(f"wrote {out.name}: {report.n_tensors} tensors rescaled, max |s - 1| = {report.max_scale_change:.3f} ({source})")
    for name, metrics in scores.items():
        print(f"  {name}: exact match {100 * metrics.right / metrics.n_present:.1f} % of {metrics.n_present} present slots")
    print(f'add to bundle.toml: awq_adapter = "{out.name}"')
    return 0
