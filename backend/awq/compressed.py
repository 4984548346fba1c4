"""llm-compressor's ``pack-quantized`` checkpoints back to plain weights.

A layer has ``weight_packed [d_out, d_in / 8]``, eight 4-bit numbers an int32 along the inputs, lowest bits first, each plus
8; ``weight_scale [d_out, n_groups]``; ``weight_shape`` (d_out, d_in); and, where it is not symmetric,
``weight_zero_point [d_out / 8, n_groups]``, packed along the outputs. ``weight = (q - zero) * scale``
(compressed-tensors 0.17, ``compressors/pack_quantized``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

_BITS = 4
_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


def unpack_state(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all tensors in float32, packed layers as ``weight [d_out, d_in]``.

    Raises:
        BundleError: if it is not 4-bit weights alone, or its inputs are reordered.
        KeyError: if a tensor of a layer is missing.
    """
    _require_four_bits(config)
    state = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            state[f"{layer}.weight"] = _weight(tensor, tensors, layer)
        elif kind not in _PARTS:
            state[name] = tensor.float()
    return state


def _require_four_bits(config: Mapping[str, Any]) -> None:
    groups = config.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, Mapping) else []
    weights = [group.get("weights") or {} for group in groups if isinstance(group, Mapping)]
    plain = all(group.get("input_activations") is None for group in groups if isinstance(group, Mapping))
    four = all(w.get("num_bits") == _BITS and w.get("type") == "int" and w.get("actorder") != "group" for w in weights)
    if not (config.get("format") == "pack-quantized" and weights and plain and four):
        raise BundleError(
            "Only 4-bit pack-quantized checkpoints can be read back",
            found=f"format {config.get('format')}, {weights}"[:160],
            remedy="Quantise weights alone, to 4 bits, without group reordering.",
        )


def _weight(packed: Tensor, tensors: Mapping[str, Tensor], layer: str) -> Tensor:
    d_out, d_in = tensors[f"{layer}.weight_shape"].tolist()
    scale = tensors[f"{layer}.weight_scale"].float()
    weight = _unpacked(packed)[:, :d_in].float()
    per_group = d_in // scale.shape[1]
    packed_zero = tensors.get(f"{layer}.weight_zero_point")
    if packed_zero is not None:
        zero = _unpacked(packed_zero.T).T[:d_out].float()
        weight = weight - zero.repeat_interleave(per_group, dim=1)
    return weight * scale.repeat_interleave(per_group, dim=1)


def _unpacked(packed: Tensor) -> Tensor:
    """``[rows, columns / 8]`` int32 to ``[rows, columns]`` numbers from -8 to 7."""
    import torch

    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32)
    stored = (packed[..., None] >> shifts) & (2**_BITS - 1)
    numbers: Tensor = stored.flatten(-2) - 2 ** (_BITS - 1)
    return numbers
