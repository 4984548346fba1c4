"""4-bit checkpoints back to plain weights: AutoAWQ's GEMM layout here, llm-compressor's in `compressed`.

``qweight [d_in, d_out / 8]`` and ``qzeros [d_in / group, d_out / 8]`` hold eight 4-bit numbers an int32, lowest bits first,
in the column order 0 2 4 6 1 3 5 7; ``weight = (q - zero) * scale`` with ``scales [d_in / group, d_out]`` (AutoAWQ 0.2.9,
``awq/modules/linear/gemm.py``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.awq.compressed import unpack_state
from backend.bounded_read import read_text
from backend.errors import BundleError
from backend.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

_COLUMN_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_BITS = 4


def quantization_config(model: str) -> dict[str, Any] | None:
    """Return the quantization part of a checkpoint's ``config.json``, or None if it is not quantised."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    found = json.loads(read_text(path)).get("quantization_config")
    return found if isinstance(found, dict) else None


def dequantized_state(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint in float32, quantised layers as ``weight [d_out, d_in]``.

    Raises:
        BundleError: if it is neither 4-bit GEMM with zero points nor `pack-quantized`, or a tensor of a layer is missing.
    """
    config = quantization_config(str(folder)) or {}
    tensors = dict(read_tensors(folder))
    try:
        if config.get("quant_method") == "compressed-tensors":
            return unpack_state(tensors, config)
        return _gemm_state(tensors, config)
    except KeyError as error:
        raise BundleError(
            "A quantised layer is incomplete", found=f"no {error.args[0]}", remedy="Copy it again."
        ) from error


def _gemm_state(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    if config.get("bits", config.get("w_bit")) != _BITS or str(config.get("version", "gemm")).lower() != "gemm":
        raise BundleError(
            "Only 4-bit AWQ checkpoints in GEMM layout can be read back", found=str(config)[:120], remedy="Quantise again."
        )
    state = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "qweight":
            state[f"{layer}.weight"] = _dequantize(tensor, tensors[f"{layer}.qzeros"], tensors[f"{layer}.scales"])
        elif kind not in ("qzeros", "scales"):
            state[name] = tensor.float()
    return state


def _dequantize(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    weight, zeros = _unpacked(qweight), _unpacked(qzeros)
    group = weight.shape[0] // zeros.shape[0]
    spread = zeros.repeat_interleave(group, dim=0), scales.float().repeat_interleave(group, dim=0)
    return ((weight - spread[0]).float() * spread[1]).T.contiguous()


def _unpacked(packed: Tensor) -> Tensor:
    import torch

    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32)
    stored = (packed[..., None] >> shifts) & (2**_BITS - 1)  # [rows, columns / 8, 8], in stored order
    plain = torch.empty_like(stored)
    plain[..., list(_COLUMN_ORDER)] = stored
    return plain.flatten(-2)
