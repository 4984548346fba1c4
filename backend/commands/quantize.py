"""`python -m backend quantize`: an AWQ 4-bit checkpoint of a bundle's base."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from backend.awq.quantize import quantize_base
from backend.bundle import Bundle, load_bundle
from backend.commands import arguments as shared
from backend.dataset import read_examples
from backend.errors import InputError
from backend.schema import load_schemas


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("quantize", help="make an AWQ 4-bit checkpoint of the base")
    shared.add_bundle(parser)
    parser.add_argument("--out", type=Path, help="folder to write (default: awq in the bundle)")
    parser.add_argument("--samples", type=int, default=256, help="prompts of the evaluation set to calibrate with")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Quantise, measure, and print what to add to bundle.toml."""
    bundle = load_bundle(arguments.bundle, may_lack=("awq", "awq_adapter"))
    base = local_folder(bundle.base)
    report = quantize_base(base, arguments.out or bundle.folder / "awq", _prompts(bundle, arguments.samples))
    print(
        f"wrote {report.folder.name}: loss {report.loss_before:.4f} -> {report.loss_after:.4f} on {report.n_tokens} tokens"
    )
    print(f"largest channel scale |s - 1| = {report.max_scale_change:.3f}: run `python -m backend rescale-adapter` next")
    print(f'add to bundle.toml: awq = "{report.folder.name}"')
    return 0


def local_folder(model: str) -> Path:
    """Return the folder of a checkpoint; raises `InputError` for a hub id, whose files are not here."""
    if not Path(model).is_dir():
        raise InputError("The checkpoint is not on this machine", found=model, remedy="Download it and name its folder.")
    return Path(model)


def _prompts(bundle: Bundle, n: int) -> list[tuple[int, ...]]:
    if bundle.dataset is None:
        raise InputError("The bundle has no evaluation set to calibrate with", remedy="Add dataset to bundle.toml.")
    schemas, builder = load_schemas(bundle.schemas), bundle.load_probe().builder
    examples = islice(read_examples(bundle.dataset, schemas), n)
    return [prompt.ids for prompt in builder.build_many([(schemas[e.function], e.utterance) for e in examples])]
