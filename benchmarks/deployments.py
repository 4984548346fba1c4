"""Deployments with injected faults: files changed on disk, wrappers around a live runtime, and healthy ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.arms import Arm
from backend.bundle import DEMO, Bundle, load_bundle
from backend.diagnosis_types import Cause
from backend.file_faults import file_faults
from backend.probe import Probe
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeSpec
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from backend.scoring import load_examples
from benchmarks.awq_pack import pack_checkpoint
from benchmarks.faulty import CASES, Case, Faulty, in_a_batch
from tests.tiny import CONFIGS, make

RAW = ForwardOptions()
_TEXTS = (
    "fly from Boston to Seattle next Friday",
    "send naive cafe-owners an email at 6:45, ok?",
    "the points (3, 4) are 20 apart next Friday",
    "from Seattle to Boston at 6:45",
)


@dataclass(frozen=True, slots=True)
class Site:
    """A bundle with its healthy FP32 baseline and prompts to judge on."""

    name: str
    bundle: Bundle
    probe: Probe
    baseline: Arm
    prompts: Sequence[Prompt]
    awq: RuntimeSpec  # a healthy 4-bit deployment, read by HF

    @property
    def spec(self) -> RuntimeSpec:
        """The baseline's spec."""
        return self.baseline.runtime.spec


def demo_site(n_prompts: int) -> Site:
    """Return the demo; its 4-bit deployment has the rescaled adapter."""
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    spec = replace(bundle.runtimes[0], name="hf-fp32", dtype="float32")
    awq = bundle.runtime("vllm-awq")
    return Site(
        "demo",
        bundle,
        probe,
        Arm(HFRuntime.load(spec), RAW),
        load_examples(bundle, probe.builder, limit=n_prompts)[1],
        replace(spec, name="hf-awq", model=awq.model, adapter=awq.adapter),
    )


def random_sites(folder: Path, *, seeds: int, n_prompts: int) -> Iterator[Site]:
    """Yield random bundles of three architectures and two kinds of tokenizer."""
    for seed in range(seeds):
        for architecture in CONFIGS:
            for kind in ("bpe", "unigram"):
                name = f"{architecture}-{kind}-{seed}"
                (folder / name).mkdir(parents=True)
                # llama and mistral of one seed would be the same weights
                number = 10 * seed + list(CONFIGS).index(architecture)
                bundle = load_bundle(make(folder / name, architecture=architecture, kind=kind, seed=number))
                probe, schema = bundle.load_probe(), load_schemas(bundle.schemas)["book"]
                prompts = probe.builder.build_many([(schema, text) for text in _TEXTS[:n_prompts]])
                spec = bundle.runtimes[0]
                packed = pack_checkpoint(Path(bundle.base), folder / name / "awq")
                baseline = Arm(HFRuntime.load(spec), RAW)
                yield Site(name, bundle, probe, baseline, prompts, replace(spec, name="hf-awq", model=str(packed)))


@dataclass(frozen=True, slots=True)
class FileCase:
    """A fault in files."""

    name: str
    family: str  # base or adapter
    spec: Callable[[RuntimeSpec], RuntimeSpec]
    cause: Cause


def file_cases(site: Site, folder: Path) -> list[FileCase]:
    """Write broken files of a site and return what they break."""
    base, adapter = Path(site.bundle.base), Path(str(site.bundle.adapter))
    rope = _copy(base, folder / "rope", config=_other_rope)
    other = _copy(base, folder / "other", change=lambda name, t: _shuffled(t))
    quantized = (
        pack_checkpoint(other, folder / "other-awq")
        if site.name != "demo"
        else _copy(Path(site.awq.model), folder / "other-awq", change=lambda name, t: _shuffled(t))
    )
    alpha = _copy(adapter, folder / "alpha", config=lambda c: c | {"lora_alpha": c["lora_alpha"] / 4})
    wrong = _copy(adapter, folder / "wrong", change=lambda name, t: _shuffled(t))
    dead = _copy(adapter, folder / "dead", change=lambda name, t: t if ".layers.0." in name else torch.zeros_like(t))
    found = [
        FileCase("another rope_theta", "base", _serving(model=rope), Cause.CONFIG_MISMATCH),
        FileCase("base of another source", "base", _serving(model=other), Cause.OTHER_SOURCE),
        FileCase("AWQ of another source", "base", _serving(model=quantized), Cause.QUANTIZED_OTHER_SOURCE),
        FileCase("alpha a quarter", "adapter", _serving(adapter=alpha), Cause.LORA_SCALE),
        FileCase("another adapter", "adapter", _serving(adapter=wrong), Cause.OTHER_ADAPTER),
        FileCase("adapter zero but in one layer", "adapter", _serving(adapter=dead), Cause.LORA_PARTIAL),
    ]
    if site.name == "demo":
        misfit = _serving(model=Path(site.awq.model))
        found.append(FileCase("AWQ with the original adapter", "adapter", misfit, Cause.ADAPTER_MISFIT))
    return found


def build(site: Site, files: Sequence[FileCase], wrappers: Sequence[Case], *, seen: bool = True) -> Arm:
    """Load a deployment with these faults; ``seen`` tells whether its files are on the machine of whoever diagnoses."""
    spec = site.spec
    for case in files:
        spec = case.spec(spec)
    runtime: Runtime = HFRuntime.load(spec) if files else site.baseline.runtime
    order = ("adapter", "rows", "norm")
    for wrapper in sorted(wrappers, key=lambda case: order.index(case.family)):
        runtime = Faulty(runtime, wrapper.fault)
    return _armed(site, runtime, seen=seen)


def twins(candidate: Arm) -> list[Runtime]:
    """Return an HF runtime of the candidate's own files, where whoever diagnoses sees them."""
    return [HFRuntime.load(candidate.runtime.spec)]


def healthy_arms(site: Site) -> Iterator[tuple[str, Arm]]:
    """Yield deployments of one bundle that are well: dtypes and 4-bit weights, alone and in a batch with others."""
    others = [prompt.ids for prompt in site.prompts[::-1]]
    specs = {dtype: replace(site.spec, dtype=dtype) for dtype in ("bfloat16", "float16", "float32")} | {"awq": site.awq}
    for name, spec in specs.items():
        runtime = HFRuntime.load(spec)
        yield f"{site.name} {name}", _armed(site, runtime)
        yield f"{site.name} {name} in a batch", _armed(site, Faulty(runtime, in_a_batch(others)))


def pairs(files: Sequence[FileCase]) -> Iterator[tuple[list[FileCase], list[Case], frozenset[Cause]]]:
    """Yield all pairs of faults that can come together: of two families, and neither hides the other."""
    everything = [*files, *(case for case in CASES if not case.hides)]
    for index, first in enumerate(everything):
        for second in everything[index + 1 :]:
            if first.family == second.family or first.cause == second.cause:
                continue
            both = (first, second)
            if any(c.cause is Cause.ADAPTER_MISFIT for c in both) and any(c.family == "base" for c in both):
                continue  # the misfit is with one AWQ base; there is no second base
            yield (
                [case for case in both if isinstance(case, FileCase)],
                [case for case in both if isinstance(case, Case)],
                frozenset({first.cause, second.cause}),
            )


def _armed(site: Site, runtime: Runtime, *, seen: bool = True) -> Arm:
    files = file_faults(runtime.spec, site.bundle.base, trained=site.bundle.adapter) if seen else ()
    return Arm(runtime, RAW, files=files)


def _serving(*, model: Path | None = None, adapter: Path | None = None) -> Callable[[RuntimeSpec], RuntimeSpec]:
    def changed(spec: RuntimeSpec) -> RuntimeSpec:
        return replace(spec, model=str(model or spec.model), adapter=str(adapter or spec.adapter))

    return changed


def _copy(
    source: Path,
    out: Path,
    *,
    change: Callable[[str, Tensor], Tensor] = lambda _, t: t,
    config: Callable[[dict], dict] = lambda c: c,
) -> Path:
    shutil.copytree(source, out)
    weights = out / ("model.safetensors" if (out / "model.safetensors").exists() else "adapter_model.safetensors")
    save_file({name: change(name, t) for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    settings = next(path for path in (out / "config.json", out / "adapter_config.json") if path.exists())
    settings.write_text(json.dumps(config(json.loads(settings.read_text()))))
    return out


def _other_rope(config: dict) -> dict:
    rope = config.get("rope_parameters") or {}
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    other = 500.0 if theta > 1_000 else 1e6
    return config | ({"rope_parameters": rope | {"rope_theta": other}} if rope else {"rope_theta": other})


def _shuffled(tensor: Tensor) -> Tensor:
    """The same numbers in another order: weights as large, and unrelated."""
    generator = torch.Generator().manual_seed(tensor.numel())
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape).contiguous()
