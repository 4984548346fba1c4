"""Scores verdicts on injected faults: ``python -m benchmarks.faults [--prompts N]``.

Every fault is put into an FP32 deployment of the demo and judged on N prompts of the held-out set, one prompt a verdict:
the most frequent cause among its slots other than no difference. Adapter files are broken for real. Healthy deployments
are HF BF16 and FP16.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.bundle import DEMO, Bundle, load_bundle
from backend.check_files import file_checks
from backend.check_types import Check
from backend.diagnosis import Arm, diagnose
from backend.diagnosis_types import Cause, Diagnosis
from backend.probe import Probe
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.runtimes.hf import HFRuntime
from backend.scoring import load_examples
from benchmarks.faulty import CASES, Faulty

HARMLESS = {Cause.NONE, Cause.DTYPE_DRIFT, Cause.QUANTIZATION_NEAR_TIE}


def named(found: Diagnosis) -> Cause:
    """Return the cause a reader would take away."""
    causes = Counter(v.cause for v in found.verdicts if v.cause is not Cause.NONE)
    return causes.most_common(1)[0][0] if causes else Cause.NONE


def broken_files(bundle: Bundle, folder: Path) -> list[tuple[str, Arm, set[Cause]]]:
    """Return deployments whose files are wrong, with the causes that name them rightly."""
    spec = replace(bundle.runtimes[0], dtype="float32")
    two = (".layers.0.", ".layers.1.")
    partial = _changed_adapter(bundle, folder / "partial", lambda name, t: t * any(layer in name for layer in two))
    other = _changed_adapter(bundle, folder / "other", lambda _, t: t.flip(0).flip(1).contiguous())
    made = [
        ("LoRA on two of six layers", replace(spec, adapter=str(partial)), {Cause.LORA_PARTIAL}),
        ("another adapter", replace(spec, adapter=str(other)), {Cause.OTHER_ADAPTER}),
        ("original adapter on AWQ", replace(spec, model=str(bundle.awq)), {Cause.ADAPTER_MISFIT}),
    ]
    return [
        (name, Arm(HFRuntime.load(s), ForwardOptions(), file_checks=_file_checks(bundle, s)), causes)
        for name, s, causes in made
    ]


def _changed_adapter(bundle: Bundle, folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    shutil.copytree(str(bundle.adapter), folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: change(name, t) for name, t in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


def _file_checks(bundle: Bundle, spec: RuntimeSpec) -> tuple[Check, ...]:
    return tuple(file_checks(spec, bundle.base, trained=bundle.adapter))


def judge(candidate: Arm, healthy: Arm, probe: Probe, prompts: list[Prompt]) -> Counter[Cause]:
    """Return how often each cause was named."""
    return Counter(named(diagnose(probe, prompt, healthy, candidate)) for prompt in prompts)


def main() -> None:
    """Print the confusion matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=40)
    n = parser.parse_args().prompts
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    prompts = load_examples(bundle, probe.builder, limit=max(n, 100))[1]
    runtime = HFRuntime.load(replace(bundle.runtimes[0], dtype="float32"))
    healthy = Arm(runtime, ForwardOptions())
    right = total = 0
    with tempfile.TemporaryDirectory() as folder:
        wrapped = [(c.name, Arm(Faulty(runtime, c.fault), ForwardOptions()), set(c.causes)) for c in CASES]
        for name, arm, causes in [*wrapped, *broken_files(bundle, Path(folder))]:
            counts = judge(arm, healthy, probe, prompts[:n])
            hits = sum(counts[cause] for cause in causes)
            right, total = right + hits, total + n
            print(f"{name:28s} {hits:3d} of {n}  {', '.join(f'{c}: {k}' for c, k in counts.most_common())}")
    print(f"named rightly: {right} of {total} ({100 * right / total:.1f} %)")
    alarms: Counter[Cause] = Counter()
    for spec in bundle.runtimes[:2]:
        arm = Arm(HFRuntime.load(spec), ForwardOptions(), file_checks=_file_checks(bundle, spec))
        alarms += judge(arm, healthy, probe, prompts[:100])
    false = sum(k for cause, k in alarms.items() if cause not in HARMLESS)
    print(f"false alarms: {false} of {alarms.total()} healthy  {', '.join(f'{c}: {k}' for c, k in alarms.most_common())}")


if __name__ == "__main__":
    main()
