"""The whole matrix against the forward passes it needs: ``python -m benchmarks.matrix [--prompts N] [--vllm]``.

Four runtimes x LoRA x normalisation are 16 cells, and 8 forward passes: normalised states are derived from raw ones.
The matrix is a real evaluation into a fresh store, checks included; the passes alone drop their states.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from backend.bundle import DEMO, load_bundle
from backend.evaluation import BATCH, Plan, begin, carry_on
from backend.runtimes.base import ForwardOptions
from backend.runtimes.load import load_runtime
from backend.scoring import load_examples
from backend.store import Store
from benchmarks.measuring import Report, in_turn, parser


def main() -> None:
    """Print both times and their ratio."""
    known = parser(__doc__)
    known.add_argument("--prompts", type=int, default=256)
    known.add_argument("--rounds", type=int, default=3)
    known.add_argument("--vllm", action="store_true", help="the bundle's first four runtimes instead of four HF ones")
    options = known.parse_args()
    report = Report("matrix", options.json)
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    specs = bundle.runtimes[:4] if options.vllm else _hf_specs(bundle.runtimes[0], bundle.awq)
    plan = Plan(bundle, specs, (True, False), (False, True), Path(str(bundle.dataset)), limit=options.prompts)
    prompts = load_examples(bundle, probe.builder, limit=options.prompts)[1]
    runtimes = {spec: load_runtime(spec) for spec in specs}
    chunks = [[p.ids for p in prompts[at : at + BATCH]] for at in range(0, len(prompts), BATCH)]

    def passes() -> None:
        for runtime in runtimes.values():
            for lora in (True, False):
                for ids in chunks:
                    runtime.forward(ids, ForwardOptions(lora=lora))

    def matrix() -> None:
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "runs.db") as store:
            carry_on(store, begin(store, plan), plan, runtimes.__getitem__)

    whole, alone = in_turn([matrix, passes], rounds=options.rounds)
    for runtime in runtimes.values():
        runtime.close()
    report.add("16 cells", median_s=whole.median, n=len(whole.seconds), prompts=len(prompts))
    report.add("8 forward passes", median_s=alone.median, n=len(alone.seconds), prompts=len(prompts))
    report.add("16 cells / 8 forward passes", ratio=whole.median / alone.median)
    report.close()


def _hf_specs(spec, awq):
    """Return four runtimes that need no server: three dtypes, and the AWQ checkpoint dequantised."""
    return (
        replace(spec, name="hf-bf16", dtype="bfloat16"),
        replace(spec, name="hf-fp16", dtype="float16"),
        replace(spec, name="hf-fp32", dtype="float32"),
        replace(spec, name="hf-awq", dtype="bfloat16", model=awq or spec.model),
    )


if __name__ == "__main__":
    main()
