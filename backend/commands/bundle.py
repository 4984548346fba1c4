"""`python -m backend bundle init DIR` writes a bundle.toml, `bundle verify DIR` names every problem; exit code 3 if any.

`bundle seal DIR` writes manifest.json, with which later changes of any file are noticed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from backend.bundle import load_bundle
from backend.bundle_init import BundlePlan, guess, write_bundle
from backend.errors import CheckFailed, InputError
from backend.manifest import write_manifest
from backend.verify import verify_bundle

_QUESTIONS = {
    "base": "base model, a folder or hub id",
    "adapter": "LoRA adapter, a folder or hub id (empty: none)",
    "heads": "probe heads",
    "schemas": "function schemas",
    "dataset": "evaluation set (empty: none)",
    "awq": "AWQ checkpoint of the same base (empty: none)",
    "awq_adapter": "adapter rescaled for it (empty: none)",
}


def add_parser(commands: Any) -> None:
    """Add the command."""
    actions = commands.add_parser("bundle", help="look after bundles").add_subparsers(dest="action", required=True)
    parser = actions.add_parser("verify", help="name every problem of a bundle")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    parser = actions.add_parser("seal", help="write manifest.json: size and sha256 of every file the bundle uses")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.set_defaults(run=run_seal)
    parser = actions.add_parser("init", help="write a bundle.toml and verify it; never overwrites one")
    parser.add_argument("folder", type=Path, metavar="DIR")
    for key, text in _QUESTIONS.items():
        parser.add_argument(f"--{key.replace('_', '-')}", metavar="PATH", help=f"{text}; default: what DIR holds")
    parser.add_argument(
        "--server", action="append", default=[], metavar="URL", help="vLLM that serves the base; repeatable"
    )
    parser.add_argument("--awq-server", action="append", default=[], metavar="URL", help="vLLM that serves AWQ; repeatable")
    parser.add_argument("--served-model", default="base", metavar="NAME", help="the servers' name of the base")
    parser.add_argument("--served-lora", default="probe", metavar="NAME", help="the servers' name of the adapter")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest prompt")
    parser.set_defaults(run=run_init)


def run(arguments: argparse.Namespace) -> int:
    """Print the problems, or that there are none."""
    return _verify(arguments.folder, as_json=arguments.json)


def run_seal(arguments: argparse.Namespace) -> int:
    """Write the manifest of a bundle whose bundle.toml is whole; one that was sealed before is sealed anew."""
    bundle = load_bundle(arguments.folder, sealed=False)
    files = bundle.files()
    print(f"wrote {write_manifest(arguments.folder, files)}: {len(files)} files")
    return 0


def run_init(arguments: argparse.Namespace) -> int:
    """Write bundle.toml from flags, from what the folder holds, or from answers; then verify it.

    Raises:
        InputError: there is a bundle.toml already.
        BundleError: as `write_bundle`.
    """
    if (arguments.folder / "bundle.toml").exists():  # before any question
        raise InputError(
            "There is a bundle.toml already",
            found=str(arguments.folder / "bundle.toml"),
            remedy="Edit it, or move it away; it was left as it is.",
        )
    plan = _plan(arguments)
    if arguments.base is None and sys.stdin.isatty():
        plan = _ask(plan)
    path = write_bundle(arguments.folder, plan)
    print(f"wrote {path}")
    return _verify(arguments.folder, as_json=False)


def _plan(arguments: argparse.Namespace) -> BundlePlan:
    given = {key: getattr(arguments, key) for key in _QUESTIONS if getattr(arguments, key) is not None}
    return replace(
        guess(arguments.folder),
        **given,
        max_tokens=arguments.max_tokens,
        servers=tuple(arguments.server),
        awq_servers=tuple(arguments.awq_server),
        served_model=arguments.served_model,
        served_lora=arguments.served_lora,
    )


def _ask(plan: BundlePlan) -> BundlePlan:
    """Ask for each file; a bare return takes what was found."""
    answers: dict[str, Any] = {}
    for key, text in _QUESTIONS.items():
        found = getattr(plan, key)
        answers[key] = input(f"{text}{f' [{found}]' if found else ''}: ").strip() or found
    return replace(plan, **answers)


def _verify(folder: Path, *, as_json: bool) -> int:
    problems = verify_bundle(folder)
    if as_json:
        print(json.dumps([asdict(problem) for problem in problems], ensure_ascii=False, indent=2))
    else:
        print("\n".join(map(str, problems)) or "no problems")
    return CheckFailed.exit_code if problems else 0
