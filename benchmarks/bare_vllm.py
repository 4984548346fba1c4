"""vLLM's in-process ``LLM.encode`` with the engine arguments of a managed server: the yardstick for HTTP.

Run by `benchmarks.throughput` in a process of its own: an ``LLM`` does not give its memory back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict

from backend.runtimes.base import Engine, RuntimeSpec
from backend.runtimes.vllm_compat import TASK, installed_spelling, serve_arguments
from backend.runtimes.vllm_process import _ENVIRONMENT

_SERVER_ONLY = ("--host", "--port", "--served-model-name", "--lora-modules")
_MARK = "seconds:"


def encode_seconds(spec: RuntimeSpec, ids: list[list[int]], *, rounds: int) -> list[float]:
    """Return the seconds of `rounds` calls after one that is not counted."""
    given = json.dumps({"spec": asdict(spec), "ids": ids, "rounds": rounds})
    environment = os.environ | _ENVIRONMENT | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare_vllm"], input=given, env=environment, capture_output=True, text=True
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            found: list[float] = json.loads(line.removeprefix(_MARK))
            return found
    raise RuntimeError(f"LLM.encode failed:\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")


def main() -> None:
    """Read spec and ids from standard input and print seconds."""
    from vllm import LLM, PoolingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = json.load(sys.stdin)
    spec = RuntimeSpec(**(given["spec"] | {"engine": Engine(given["spec"]["engine"]), "urls": ()}))
    spelling = installed_spelling()
    arguments = serve_arguments(spec, spelling, port=0)
    kept = [a for i, a in enumerate(arguments) if a not in _SERVER_ONLY and arguments[max(0, i - 1)] not in _SERVER_ONLY]
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(kept)
    llm = LLM(**vars(EngineArgs.from_cli_args(parsed)))
    parameters = PoolingParams(**spelling.request(normalize=False))
    adapter = LoRARequest(spec.remote_lora, 1, spec.adapter) if spec.adapter else None
    prompts = [{"prompt_token_ids": row} for row in given["ids"]]
    seconds = []
    for _ in range(1 + given["rounds"]):
        started = time.perf_counter()
        llm.encode(prompts, parameters, pooling_task=TASK, lora_request=adapter, use_tqdm=False)
        seconds.append(time.perf_counter() - started)
    print(f"\n{_MARK}{json.dumps(seconds[1:])}", flush=True)


if __name__ == "__main__":
    main()
