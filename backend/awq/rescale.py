"""An adapter that fits an AWQ base.

AWQ divides a norm (or the layer before) by channel scales ``s`` and multiplies the layers behind it. An adapter trained on
the plain base still expects the old inputs: with ``lora_A *= s`` for the layers behind and ``lora_B /= s`` for the layer
before, it computes exactly what it did.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backend.awq.names import SCALES_FILE
from backend.errors import BundleError, InputError
from backend.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

_KEY = re.compile(r"layers\.(\d+)\.(.+)\.lora_([AB])(?:\.\w+)?\.weight$")
_NORM = re.compile(r"layers\.(\d+)\.(input_layernorm|post_attention_layernorm)\.weight$")
_BEHIND = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """Channel scales folded between one module and the layers behind it, all names as in the checkpoint."""

    layer: int
    source: str  # divided by the scales: a norm, or a linear layer's outputs
    targets: tuple[str, ...]  # multiplied by the scales along their inputs
    values: Tensor  # [n_channels]


@dataclass(frozen=True, slots=True)
class RescaleReport:
    """What was changed."""

    folder: Path
    max_scale_change: float  # max |s - 1|
    n_tensors: int  # adapter tensors changed
    captured: bool  # scales were written down while quantising, not estimated from the norms


def max_scale_change(scales: Iterable[Tensor]) -> float:
    """Return max |s - 1| of factors ``[channels]``, or 0 without any: how far an adapter for the plain base is off."""
    return max((float((values - 1).abs().max()) for values in scales), default=0.0)


def load_scales(base: Path, awq: Path) -> tuple[list[Scale], bool]:
    """Return the scales of an AWQ checkpoint, and whether they were captured while it was made.

    Without the captured file they are ``norm_base / norm_awq``: complete for adapters on q, k, v, gate and up.

    Raises:
        BundleError: if the two checkpoints have norms of different shapes.
    """
    from safetensors.torch import load_file

    captured = awq / SCALES_FILE
    if captured.is_file():
        return [_captured(name, values) for name, values in load_file(captured).items()], True
    plain, folded = _norms(base), _norms(awq)
    if {k: v.shape for k, v in plain.items()} != {k: v.shape for k, v in folded.items()}:
        raise BundleError("Base and AWQ checkpoint are different models", found=str(awq), remedy="Quantise this base.")
    return [
        Scale(layer, norm, _BEHIND[norm], plain[layer, norm] / folded[layer, norm]) for layer, norm in sorted(plain)
    ], False


def rescale_adapter(adapter: Path, *, base: Path, awq: Path, out: Path) -> RescaleReport:
    """Write the adapter that fits ``awq`` to ``out``.

    Raises:
        InputError: if ``out`` exists.
        BundleError: as `load_scales`.
    """
    from safetensors.torch import load_file, save_file

    if out.exists():
        raise InputError("The output folder exists", found=str(out), remedy="Remove it, or name another with --out.")
    scales, captured = load_scales(base, awq)
    tensors = load_file(adapter / "adapter_model.safetensors")
    changed = {}
    for name, tensor in tensors.items():
        factor = _factor(name, scales)
        if factor is not None:
            changed[name] = (tensor.float() * factor).to(tensor.dtype)
    out.mkdir(parents=True)
    shutil.copy(adapter / "adapter_config.json", out)
    save_file({**tensors, **changed}, out / "adapter_model.safetensors", metadata={"format": "pt"})
    largest = max_scale_change(scale.values for scale in scales)
    return RescaleReport(out, largest, len(changed), captured)


def _factor(name: str, scales: list[Scale]) -> Tensor | None:
    """Return what an adapter tensor is multiplied by: ``[1, d_in]`` for lora_A, ``[d_out, 1]`` for lora_B."""
    found = _KEY.search(name)
    if found is None:
        return None
    layer, module, side = int(found[1]), found[2], found[3]
    for scale in scales:
        if scale.layer == layer and side == "A" and module in scale.targets:
            return scale.values[None, :]
        if scale.layer == layer and side == "B" and module == scale.source:
            return 1 / scale.values[:, None]
    return None


def _captured(name: str, values: Tensor) -> Scale:
    source, _, targets = name.partition(">")
    _, layer, module = source.split(".", 2)
    return Scale(int(layer), module, tuple(targets.split(",")), values)


def _norms(folder: Path) -> dict[tuple[int, str], Tensor]:
    found = {}
    for name, tensor in read_tensors(folder, lambda name: _NORM.search(name) is not None):
        match = _NORM.search(name)
        if match is not None:
            found[int(match[1]), match[2]] = tensor.float()
    return found
