"""Latency and memory of an 8B model through this project's runtimes and heads: ``python -m benchmarks.scale``.

    python -m benchmarks.scale --folder /dev/shm/scale --stage make
    python -m benchmarks.scale --folder /dev/shm/scale --stage hf --stage vllm-fp16 --stage vllm-awq
    python -m benchmarks.scale --folder /dev/shm/scale --stage vllm-fp16 --serve-flag=--enforce-eager    # without graphs
    python -m benchmarks.scale --small          # the same code with a tiny shape, on any machine

The model has the shape of Llama 3.1 8B and random weights. One runtime at a time: batches of 1, 8 and 64 prompts of 64 and
512 tokens, LoRA on, all slots, from token ids to decoded values. No prompt is sent twice.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from backend.bundle import DEMO, Bundle, load_bundle
from backend.errors import BackendError
from backend.probe import Probe
from backend.prompt import Prompt, PromptBuilder
from backend.runtimes import vllm_process
from backend.runtimes.base import Engine, ForwardOptions, Runtime, RuntimeSpec
from backend.runtimes.load import load_runtime
from backend.schema import load_schemas
from benchmarks.bare_vllm import encode
from benchmarks.measuring import Report, Timing, parser
from benchmarks.scale_model import LLAMA_8B, SMALL, write_bundle

STAGES = {"hf": "hf-bf16", "vllm-fp16": "vllm-fp16", "vllm-awq": "vllm-awq"}
REPEATS = {1: 60, 8: 40, 64: 12}


def main() -> None:
    """Make the model and measure the stages asked for."""
    options = _options()
    bundle = _make(options)
    if options.serve_flag:
        usual = vllm_process.serve_arguments
        vllm_process.serve_arguments = lambda *a, **k: [*usual(*a, **k), *options.serve_flag]
    report = Report("scale", options.json)
    for stage in options.stage:
        if stage in STAGES:
            try:
                measure(bundle, bundle.runtime(STAGES[stage]), options, report)
            except BackendError as error:  # the next runtime may still work
                report.add(f"{stage} failed", found=str(error))
    report.close()


def measure(bundle: Bundle, spec: RuntimeSpec, options: argparse.Namespace, report: Report) -> None:
    """Load one runtime, time every batch and length, and close it."""
    before = memory_bytes()
    started = time.perf_counter()
    runtime = load_runtime(spec)
    loaded_s = time.perf_counter() - started
    try:
        probe = bundle.load_probe()
        for n_tokens in options.tokens:
            prompts = fresh_prompts(bundle, probe.builder, n_tokens)
            for batch in options.batch:
                figures = _cell(runtime, probe, prompts, batch, options)
                report.add(f"{spec.name}, batch {batch} x {n_tokens} tokens", **figures)
        report.add(f"{spec.name}, device", loaded_s=loaded_s, memory_gib=(memory_bytes() - before) / 2**30)
    finally:
        runtime.close()
    if options.bare and spec.engine is Engine.VLLM:
        _bare(bundle, spec, options, report)


def _bare(bundle: Bundle, spec: RuntimeSpec, options: argparse.Namespace, report: Report) -> None:
    """Time ``LLM.encode`` in one process with the same engine arguments: what of a request is not HTTP or ours."""
    builder = bundle.load_probe().builder
    cells = [(batch, n_tokens) for n_tokens in options.tokens for batch in options.batch if batch <= 8]
    streams = {n_tokens: fresh_prompts(bundle, builder, n_tokens) for n_tokens in options.tokens}
    batches = [[list(next(streams[n_tokens]).ids) for _ in range(batch)] for batch, n_tokens in cells]
    for (batch, n_tokens), found in zip(cells, encode(spec, batches, rounds=20, in_process=True), strict=True):
        kernels = {"kernels_ms": found.kernels_ms, "lora_kernels_ms": found.lora_kernels_ms}
        report.add(
            f"{spec.name}, bare LLM.encode, batch {batch} x {n_tokens} tokens",
            **found.timing.figures(),
            **{name: ms for name, ms in kernels.items() if ms is not None},
        )


def _cell(
    runtime: Runtime, probe: Probe, prompts: Iterator[Prompt], batch: int, options: argparse.Namespace
) -> dict[str, float]:
    """Time one batch size: whole, forward pass with transfer, and heads with decoding."""
    forward_s: list[float] = []
    heads_s: list[float] = []
    copies_s: list[float] = []
    moved = 0.0
    warm, repeats = 2, REPEATS.get(batch, 12)
    while len(forward_s) < warm + 3 or (len(forward_s) < warm + repeats and sum(forward_s) < options.cell_s):
        given = [next(prompts) for _ in range(batch)]
        started = time.perf_counter()
        with _copies_from_device(copies_s):
            states = runtime.forward([p.ids for p in given], ForwardOptions())
        between = time.perf_counter()
        probe.predict_batch(given, states)
        heads_s.append(time.perf_counter() - between)
        forward_s.append(between - started)
        moved = sum(rows.numel() * rows.element_size() for rows in states) / sum(len(p.ids) for p in given)
    whole = Timing(tuple(a + b for a, b in zip(forward_s[warm:], heads_s[warm:], strict=True)))
    shares = {"copy_share": sum(copies_s) / sum(forward_s)} if copies_s else {}
    return {
        **whole.figures(),
        **shares,
        "forward_ms": Timing(tuple(forward_s[warm:])).median * 1000,
        "heads_ms": Timing(tuple(heads_s[warm:])).median * 1000,
        "bytes_per_token_and_width": moved / runtime.info.d_model,
    }


@contextmanager
def _copies_from_device(spent: list[float]) -> Iterator[None]:
    """Note how long copies from the device take, once what they wait for is there."""
    usual = torch.Tensor.cpu

    def clocked(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cuda:
            return usual(tensor)
        torch.cuda.synchronize()
        started = time.perf_counter()
        copied = usual(tensor)
        spent.append(time.perf_counter() - started)
        return copied

    with mock.patch.object(torch.Tensor, "cpu", clocked):
        yield


def fresh_prompts(bundle: Bundle, builder: PromptBuilder, n_tokens: int) -> Iterator[Prompt]:
    """Yield prompts of exactly `n_tokens` tokens with random words, no two alike: caches must not answer."""
    schemas = load_schemas(bundle.schemas)
    schema = schemas["book_flight"]
    short = len(builder.build(schema, "a").ids)
    words = sorted({word for name in schemas for word in name.split("_")})
    words = [word for word in words if len(builder.build(schema, f"a {word}").ids) == short + 1]  # one token each
    dice = random.Random(0)
    while True:
        prompt = builder.build(schema, " ".join(["a", *dice.choices(words, k=n_tokens - short)]))
        if len(prompt.ids) != n_tokens:
            raise RuntimeError(f"{len(prompt.ids)} tokens instead of {n_tokens}")
        yield prompt


def memory_bytes() -> int:
    """Return what is in use on the accelerator, or resident in this process and its children where there is none."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return sum(int(line) for line in subprocess.check_output(query, text=True).split()) * 2**20
    import psutil

    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in family)


def _make(options: argparse.Namespace) -> Bundle:
    if "make" not in options.stage:
        return load_bundle(options.folder)
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = write_bundle(options.folder, SMALL if options.small else LLAMA_8B, source=load_bundle(DEMO), device=device)
    print(f"bundle in {options.folder} after {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return made


def _options() -> argparse.Namespace:
    known = parser(__doc__)
    known.add_argument("--folder", type=Path, help="where the model is written, or lies; 23 GB")
    known.add_argument("--stage", action="append", choices=["make", *STAGES], help="may be repeated; default all")
    known.add_argument("--small", action="store_true", help="a tiny shape and few prompts: shows that it runs")
    known.add_argument("--batch", type=int, action="append", help="may be repeated; default 1, 8, 64")
    known.add_argument("--tokens", type=int, action="append", help="may be repeated; default 64, 512")
    known.add_argument("--serve-flag", action="append", default=[], help="one more argument of the vLLM server")
    known.add_argument("--bare", action="store_true", help="also LLM.encode in one process, with the time of its kernels")
    known.add_argument("--cell-s", type=float, default=6.0, help="most seconds of forward passes in one cell")
    options = known.parse_args()
    options.stage = options.stage or ["make", *STAGES]
    options.batch = options.batch or ([1, 8] if options.small else [1, 8, 64])
    options.tokens = options.tokens or ([40] if options.small else [64, 512])
    options.folder = options.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    return options


if __name__ == "__main__":
    main()
