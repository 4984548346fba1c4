"""Requests in flight against vLLM servers, in prompts a second: ``python -m benchmarks.remote [--servers 2]``.

Starts the servers, connects to them by address as to any remote deployment, and sends single prompts from 1, 4 and 16
threads. With ``--servers 2`` one runtime over both is compared with one over the first alone, in turn.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from backend.bundle import DEMO, load_bundle
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.vllm import VLLMRuntime
from backend.runtimes.vllm_process import VLLMProcess
from backend.scoring import load_examples
from benchmarks.measuring import Report, in_turn, parser

IN_FLIGHT = (1, 4, 16)


def main() -> None:
    """Print prompts a second for each number of requests in flight."""
    known = parser(__doc__)
    known.add_argument("--prompts", type=int, default=64)
    known.add_argument("--rounds", type=int, default=3)
    known.add_argument("--servers", type=int, default=1, choices=(1, 2))
    known.add_argument("--runtime", default="vllm-fp16")
    options = known.parse_args()
    report = Report("remote", options.json)
    bundle = load_bundle(DEMO)
    spec = bundle.runtime(options.runtime)
    ids = [p.ids for p in load_examples(bundle, bundle.load_probe().builder, limit=options.prompts)[1]]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = []
        for _ in range(options.servers):
            server = VLLMProcess.start(spec, log_dir=folder)
            stack.callback(server.close)
            urls.append(server.url)
        runtimes = {1: VLLMRuntime.connect(replace(spec, urls=(urls[0],)))}
        if options.servers > 1:
            runtimes[2] = VLLMRuntime.connect(replace(spec, urls=tuple(urls)))
        for runtime in runtimes.values():
            stack.callback(runtime.close)
        _measure(report, list(runtimes.items()), ids, options.rounds)
    report.close()


def _measure(report: Report, runtimes: list[tuple[int, Runtime]], ids: list[tuple[int, ...]], rounds: int) -> None:
    works, labels = [], []
    for servers, runtime in runtimes:
        for threads in IN_FLIGHT:
            works.append(lambda runtime=runtime, threads=threads: _send(runtime, ids, threads))
            labels.append(f"{servers} server(s), {threads} in flight")
    timings = in_turn(works, rounds=rounds)
    rates = [len(ids) / timing.median for timing in timings]
    for label, rate, timing in zip(labels, rates, timings, strict=True):
        report.add(label, prompts_per_s=rate, ratio_to_1_in_flight=rate / rates[0], n=len(timing.seconds))
    if len(runtimes) > 1:
        report.add("2 servers / 1 server, 16 in flight", ratio=rates[-1] / rates[len(IN_FLIGHT) - 1])


def _send(runtime: Runtime, ids: list[tuple[int, ...]], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda row: runtime.forward([row], ForwardOptions()), ids):
            pass


if __name__ == "__main__":
    main()
