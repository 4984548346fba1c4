"""Round-to-nearest 4-bit checkpoints in AutoAWQ's GEMM layout, for random bundles too narrow for groups of 128."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_GROUP = 16


def pack_checkpoint(base: Path, out: Path) -> Path:
    """Quantise every linear layer of ``base`` and write a checkpoint that `backend.awq.dequantize` reads."""
    shutil.copytree(base, out)
    packed: dict[str, Tensor] = {}
    for name, tensor in load_file(out / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if ".layers." in name and tensor.ndim == 2:
            for kind, value in zip(("qweight", "qzeros", "scales"), _quantized(tensor.float().T), strict=True):
                packed[f"{layer}.{kind}"] = value
        else:
            packed[name] = tensor
    save_file(packed, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    quantization = {"quant_method": "awq", "bits": 4, "group_size": _GROUP, "version": "gemm", "zero_point": True}
    (out / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return out


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``[d_in, d_out]`` to packed weights and zeros, and scales."""
    groups = weight.reshape(-1, _GROUP, weight.shape[1])
    low, high = groups.amin(dim=1).clamp(max=0), groups.amax(dim=1).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-8)
    zero = (-low / scale).round().clamp(0, 15)
    spread = [part.repeat_interleave(_GROUP, dim=0) for part in (scale, zero)]
    numbers = (weight / spread[0] + spread[1]).round().clamp(0, 15)
    return _packed(numbers), _packed(zero), scale


def _packed(numbers: Tensor) -> Tensor:
    stored = numbers.to(torch.int64).reshape(numbers.shape[0], -1, 8)[..., list(_ORDER)]
    joined = (stored << torch.arange(0, 32, 4)).sum(dim=-1)
    return torch.where(joined >= 2**31, joined - 2**32, joined).to(torch.int32)
