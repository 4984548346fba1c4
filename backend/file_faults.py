"""What a deployment's files say is wrong with it, before anything runs: adapter, base and configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.adapter import inspect_adapter
from backend.awq.dequantize import quantization_config
from backend.bounded_read import read_text
from backend.check_files import file_checks
from backend.check_types import Check
from backend.diagnosis_types import Cause, Evidence, Finding
from backend.errors import BackendError
from backend.runtimes.base import RuntimeSpec
from backend.tensors import read_tensors

# settings of config.json that change hidden states without changing the shape of any tensor
_SETTINGS = (
    "rms_norm_eps",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "hidden_act",
    "attention_bias",
)


def file_faults(spec: RuntimeSpec, base_model: str, *, trained: str | None = None) -> tuple[Finding, ...]:
    """Return what the files name; nothing for those that are not on this machine.

    Args:
        spec: the runtime in question.
        base_model: the bundle's plain base.
        trained: the bundle's adapter as it was trained on that base.
    """
    folders = tuple(folder for folder in (spec.model, base_model, spec.adapter, trained) if folder is not None)
    return _read_faults(spec, base_model, trained, tuple(map(_stamp, folders)))


@lru_cache(maxsize=32)
def _read_faults(spec: RuntimeSpec, base_model: str, trained: str | None, stamps: object) -> tuple[Finding, ...]:
    """Read once as long as nothing on disk changes: the embeddings of an 8B model are a gigabyte."""
    found = list(_config_faults(spec.model, base_model))
    failed = {check.name: check for check in file_checks(spec, base_model, trained=trained) if not check.passed}
    if (source := failed.get("same source model")) is not None:
        found.append(_finding(other_source(spec.model), source))
    elif is_quantized(spec.model) and (misfit := failed.get("adapter fits the AWQ scales")) is not None:
        # norms of another model differ too: only beside the right base do they mean scales
        found.append(_finding(Cause.ADAPTER_MISFIT, misfit))
    if spec.adapter is not None and Path(spec.adapter).is_dir() and Path(base_model).is_dir():
        found += _adapter_faults(spec, base_model, trained)
    return tuple(found)


def is_quantized(model: str) -> bool:
    """Tell whether a checkpoint on this machine is quantised."""
    return quantization_config(model) is not None


def other_source(model: str) -> Cause:
    """Return the cause that names a model of another source."""
    return Cause.QUANTIZED_OTHER_SOURCE if is_quantized(model) else Cause.OTHER_SOURCE


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix in (".safetensors", ".json"))
    return tuple((path.name, (stat := path.stat()).st_mtime_ns, stat.st_size) for path in paths)


def _finding(cause: Cause, check: Check) -> Finding:
    return Finding(cause, 0.95, (Evidence(check.name, check.observed, check.expected),))


def _config_faults(model: str, base: str) -> Iterator[Finding]:
    if model == base:
        return
    try:
        ours, theirs = _settings(model), _settings(base)
    except (OSError, ValueError):
        return  # a hub id, or a folder that loading will complain about
    differ = sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
    if differ:
        observed, expected = (", ".join(f"{name} = {side[name]!r}" for name in differ) for side in (ours, theirs))
        yield Finding(Cause.CONFIG_MISMATCH, 0.95, (Evidence("config.json", observed, expected),))


def _settings(model: str) -> dict[str, Any]:
    config = json.loads(read_text(Path(model) / "config.json"))
    # transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    kind = rope.get("rope_type") or (config.get("rope_scaling") or {}).get("rope_type") or "default"
    found = {name: config[name] for name in _SETTINGS if config.get(name) is not None}
    return found | {"rope_type": kind} | ({"rope_theta": float(theta)} if theta is not None else {})


def _adapter_faults(spec: RuntimeSpec, base: str, trained: str | None) -> Iterator[Finding]:
    adapter = Path(spec.adapter or "")
    try:
        report = inspect_adapter(adapter, Path(base))
        reference = inspect_adapter(Path(trained), Path(base)) if trained and Path(trained).is_dir() else None
        if report.unmatched or report.missing:
            cause = Cause.LORA_PARTIAL if report.bound else Cause.LORA_NOT_APPLIED
            observed = f"{len(report.bound)} modules bound, {len(report.unmatched)} tensors under another prefix"
            yield Finding(cause, 0.95, (Evidence("adapter keys", observed, "every tensor reaches a module"),))
        if reference is None or reference.rank == 0 or report.rank == 0:
            return
        ours, theirs = report.alpha / report.rank, reference.alpha / reference.rank
        if ours != theirs:
            yield Finding(Cause.LORA_SCALE, 0.95, (Evidence("alpha / r", f"{ours:g}", f"{theirs:g}"),))
        if adapter != Path(trained or "") and not report.unmatched:
            yield from _value_faults(adapter, Path(trained or ""), rescaled=is_quantized(spec.model))
    except BackendError:
        return  # `bundle verify` and loading say what is wrong with a damaged file


def _value_faults(adapter: Path, trained: Path, *, rescaled: bool) -> Iterator[Finding]:
    """Compare tensor by tensor with the adapter as it was trained; beside an AWQ base what rescaling leaves alone."""
    wanted = _kept_by_rescaling if rescaled else lambda _: True
    ours, theirs = dict(read_tensors(adapter, wanted)), dict(read_tensors(trained, wanted))
    shared = ours.keys() & theirs.keys()
    if not shared:
        return
    dead = sorted(name for name in shared if not bool(ours[name].any()) and bool(theirs[name].any()))
    changed = [
        name
        for name in shared
        if name not in dead and (ours[name].shape != theirs[name].shape or not ours[name].allclose(theirs[name], rtol=1e-2))
    ]
    if dead:
        evidence = Evidence("adapter tensors", f"{len(dead)} are zero, such as {dead[0]}", "as trained")
        yield Finding(Cause.LORA_PARTIAL if len(dead) < len(shared) else Cause.LORA_NOT_APPLIED, 0.9, (evidence,))
    if len(changed) > len(shared) // 2:
        evidence = Evidence("adapter tensors", f"{len(changed)} of {len(shared)} differ", "equal to the trained adapter's")
        yield Finding(Cause.OTHER_ADAPTER, 0.95, (evidence,))


def _kept_by_rescaling(name: str) -> bool:
    # q and k stand behind a norm and before nothing that is scaled: only their lora_A changes
    return "lora_B" in name and ("q_proj" in name or "k_proj" in name)
