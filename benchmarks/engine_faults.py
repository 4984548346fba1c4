"""Real vLLM servers of the demo, well and with real faults; one server at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import load_file, save_file

from backend.arms import Arm
from backend.diagnosis_types import Cause
from backend.file_faults import file_faults
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.runtimes.load import load_runtime
from benchmarks.deployments import Site
from benchmarks.faulty import Faulty, always_normalized

RAW = ForwardOptions()


@dataclass(frozen=True, slots=True)
class EngineCase:
    """A live server and what is wrong with it; nothing if it is well."""

    name: str
    arm: Arm
    causes: frozenset[Cause]


def engine_cases(site: Site, folder: Path) -> Iterator[EngineCase]:
    """Yield servers, each ended before the next is started."""
    fp16, awq = site.bundle.runtime("vllm-fp16"), site.bundle.runtime("vllm-awq")
    adapter = Path(str(site.bundle.adapter))
    prefix = "base_model.model."
    wrapped = _adapter(adapter, folder / "wrapped", rename=lambda n: n.replace(prefix, f"{prefix}backbone."))
    alpha = _adapter(adapter, folder / "alpha", config=lambda c: c | {"lora_alpha": 4 * c["lora_alpha"]})
    yield from _serve(site, fp16, [("vLLM FP16", frozenset()), ("vLLM FP16 normalising", {Cause.NORMALIZATION})])
    yield from _serve(site, awq, [("vLLM AWQ", frozenset())])
    broken: list[tuple[str, RuntimeSpec, Cause]] = [
        ("vLLM, adapter keys under a wrapper", replace(fp16, adapter=str(wrapped)), Cause.LORA_NOT_APPLIED),
        ("vLLM, lora_alpha four times", replace(fp16, adapter=str(alpha)), Cause.LORA_SCALE),
        ("vLLM AWQ, original adapter", replace(awq, adapter=site.bundle.adapter), Cause.ADAPTER_MISFIT),
    ]
    for name, spec, cause in broken:
        yield from _serve(site, spec, [(name, {cause}), (f"{name}, normalising", {cause, Cause.NORMALIZATION})])


def _serve(site: Site, spec: RuntimeSpec, cases: list[tuple[str, set[Cause] | frozenset[Cause]]]) -> Iterator[EngineCase]:
    runtime = load_runtime(spec)
    try:
        files = file_faults(spec, site.bundle.base, trained=site.bundle.adapter)
        for name, causes in cases:
            served = Faulty(runtime, always_normalized) if Cause.NORMALIZATION in causes else runtime
            yield EngineCase(name, Arm(served, RAW, files=files), frozenset(causes))
    finally:
        runtime.close()


def _adapter(
    source: Path,
    out: Path,
    *,
    rename: Callable[[str], str] = lambda name: name,
    config: Callable[[dict], dict] = lambda settings: settings,
) -> Path:
    shutil.copytree(source, out)
    weights, settings = out / "adapter_model.safetensors", out / "adapter_config.json"
    save_file({rename(n): t for n, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    settings.write_text(json.dumps(config(json.loads(settings.read_text()))))
    return out
