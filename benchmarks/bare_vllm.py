"""vLLM's ``LLM.encode`` with the engine arguments of a managed server, without a server: the yardstick for HTTP.

Run by `benchmarks.throughput` and `benchmarks.scale` in a process of its own: an ``LLM`` does not give its memory back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from backend.runtimes.base import Engine, RuntimeSpec
from backend.runtimes.vllm_compat import TASK, installed_spelling, serve_arguments
from backend.runtimes.vllm_cuda import engine_arguments
from backend.runtimes.vllm_process import _ENVIRONMENT
from benchmarks.measuring import Timing

_SERVER_ONLY = ("--host", "--port", "--served-model-name", "--lora-modules")
_MARK = "found:"


@dataclass(frozen=True, slots=True)
class Bare:
    """Calls with one batch of prompts; what a GPU's kernels take of one call where there is a GPU in the same process."""

    timing: Timing
    kernels_ms: float | None = None
    lora_kernels_ms: float | None = None


def encode(spec: RuntimeSpec, batches: list[list[list[int]]], *, rounds: int, in_process: bool = False) -> list[Bare]:
    """Time `rounds` calls with each batch of token ids after one call that is not counted, all in one engine.

    Args:
        spec: what to serve.
        batches: of prompts.
        rounds: calls with each batch.
        in_process: run the engine in the caller's process, as no server does, and profile its kernels.
    """
    given = json.dumps({"spec": asdict(spec), "batches": batches, "rounds": rounds, "profile": in_process})
    environment = os.environ | _ENVIRONMENT | {"HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if in_process else {}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare_vllm"], input=given, env=environment, capture_output=True, text=True
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return [Bare(Timing(tuple(found.pop("seconds"))), **found) for found in json.loads(line.removeprefix(_MARK))]
    raise RuntimeError(f"LLM.encode failed:\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")


def main() -> None:
    """Read spec and batches from standard input and print what each took."""
    given = json.load(sys.stdin)
    spec = RuntimeSpec(**(given["spec"] | {"engine": Engine(given["spec"]["engine"]), "urls": ()}))
    call = _engine(spec)
    found = []
    for batch in given["batches"]:
        seconds = []
        for _ in range(1 + given["rounds"]):
            started = time.perf_counter()
            call(batch)
            seconds.append(time.perf_counter() - started)
        found.append({"seconds": seconds[1:]} | (_kernels(partial(call, batch)) if given["profile"] else {}))
    print(f"\n{_MARK}{json.dumps(found)}", flush=True)


def _engine(spec: RuntimeSpec) -> Callable[[list[list[int]]], object]:
    """Load an engine and return a call of it with the adapter, if there is one."""
    from vllm import LLM, PoolingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    spelling = installed_spelling()
    arguments = serve_arguments(spec, spelling, port=0) + engine_arguments(spec)
    kept = [a for i, a in enumerate(arguments) if a not in _SERVER_ONLY and arguments[max(0, i - 1)] not in _SERVER_ONLY]
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(kept)
    llm = LLM(**vars(EngineArgs.from_cli_args(parsed)))
    parameters = PoolingParams(**spelling.request(normalize=False))
    adapter = LoRARequest(spec.remote_lora, 1, spec.adapter) if spec.adapter else None

    def call(batch: list[list[int]]) -> object:
        prompts = [{"prompt_token_ids": row} for row in batch]
        return llm.encode(prompts, parameters, pooling_task=TASK, lora_request=adapter, use_tqdm=False)

    return call


def _kernels(call: Callable[[], object], *, calls: int = 5) -> dict[str, float]:
    """Return the GPU time of one call in milliseconds, of all kernels and of the adapter's; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            call()
    each = [(event.self_device_time_total / 1000 / calls, event.key) for event in profile.key_averages()]
    lora = sum(ms for ms, name in each if "lora" in name)
    return {"kernels_ms": sum(ms for ms, _ in each), "lora_kernels_ms": lora}


if __name__ == "__main__":
    main()
