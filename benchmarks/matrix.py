"""The cost of a matrix beside its forward passes: ``python -m benchmarks.matrix [--runtime NAME]... [--json]``.

For each runtime the demo's evaluation set goes through the evaluation (LoRA on and off, raw and normalised: four cells)
and, in turn in the same process, through the two forward passes alone, in the same batches. Prints medians of the repeats,
their ratio (target 1.15 at most), and where the time of the evaluation goes: forward passes, storing, and the rest, which
is tokenising, reading, heads and decoding. `benchmarks.throughput` has its parts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from backend.bundle import DEMO, load_bundle
from backend.evaluation import BATCH, TOKEN_BUDGET, begin, carry_on, read_windows
from backend.plan import Plan
from backend.pool import Pool
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.batching import token_budget_batches
from backend.store import Store
from benchmarks.measuring import Report, parser

RATIO = 1.15


class _TimedStore(Store):
    """Adds up the seconds of its transactions."""

    stored_s = 0.0

    def append(self, *args, **more):
        started = time.perf_counter()
        super().append(*args, **more)
        self.stored_s += time.perf_counter() - started


def alone(runtime: Runtime, plan: Plan) -> float:
    """Return the seconds of the forward passes that the plan needs, in the evaluation's batches."""
    passes = []
    for window in read_windows(plan, plan.bundle.load_probe().builder):
        ids = [prompt.ids for prompt in window.prompts]
        batches = token_budget_batches([len(row) for row in ids], budget=TOKEN_BUDGET, most=BATCH)
        passes += [[ids[i] for i in batch] for batch in batches]
    started = time.perf_counter()
    for lora in plan.loras:
        for batch in passes:
            runtime.forward(batch, ForwardOptions(lora=lora))
    return time.perf_counter() - started


def evaluated(runtime: Runtime, plan: Plan, folder: Path) -> tuple[float, float, float]:
    """Return the seconds of the evaluation, and of forward passes and storing within it."""
    forward_s, forward = 0.0, runtime.forward

    def timed(*args):
        nonlocal forward_s
        started = time.perf_counter()
        found = forward(*args)
        forward_s += time.perf_counter() - started
        return found

    with _TimedStore(folder / f"{time.monotonic_ns()}.sqlite") as store:
        run = begin(store, plan)
        runtime.forward = timed
        started = time.perf_counter()
        carry_on(store, run, plan, lambda _: runtime)
        seconds = time.perf_counter() - started
        del runtime.forward
        return seconds, forward_s, store.stored_s


def main() -> None:
    """Print one line a runtime, and one for all of them together."""
    known = parser(__doc__)
    known.add_argument("--runtime", action="append", default=[], help="may be repeated; default hf-bf16")
    known.add_argument("--limit", type=int, help="examples of the evaluation set")
    known.add_argument("--repeats", type=int, default=3)
    options = known.parse_args()
    bundle, report = load_bundle(DEMO), Report("matrix", options.json)
    whole_s = bare_s = 0.0
    with tempfile.TemporaryDirectory() as folder, Pool() as pool:
        for name in options.runtime or ["hf-bf16"]:
            spec = bundle.runtime(name)
            plan = Plan(bundle, (spec,), (True, False), (False, True), bundle.dataset, limit=options.limit)
            runtime = pool.get(spec)
            alone(runtime, plan)  # warm
            bare, whole = [], []
            for _ in range(options.repeats):
                bare.append(alone(runtime, plan))
                whole.append(evaluated(runtime, plan, Path(folder)))
            seconds, forward_s, stored_s = (statistics.median(column) for column in zip(*whole, strict=True))
            whole_s, bare_s = whole_s + seconds, bare_s + statistics.median(bare)
            report.add(
                f"{name}, 4 cells / 2 forward passes",
                **_compared(seconds, statistics.median(bare)),
                n=options.repeats,
                forward_share=forward_s / seconds,
                storing_share=stored_s / seconds,
                rest_share=(seconds - forward_s - stored_s) / seconds,
            )
    report.add("together", **_compared(whole_s, bare_s))
    report.close()


def _compared(whole_s: float, bare_s: float) -> dict[str, float | str]:
    ratio = whole_s / bare_s
    return {"whole_s": whole_s, "forward_s": bare_s, "ratio": ratio, "target": "met" if ratio <= RATIO else "missed"}


if __name__ == "__main__":
    main()
