"""A checkpoint as llm-compressor writes it, with compressed-tensors' own compressor."""

import json
import shutil
from pathlib import Path

import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

GROUP = 128


def _args(*, symmetric):
    return QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP)


# one layout in the attention and the other in the MLP: one server shows both
SCHEMES = {
    "re:.*self_attn.*": QuantizationScheme(targets=["re:.*self_attn.*"], weights=_args(symmetric=True)),
    "re:.*mlp.*": QuantizationScheme(targets=["re:.*mlp.*"], weights=_args(symmetric=False)),
}


def _quantized(weight, scheme):
    """Min-max scales per group of inputs, then the library's packing."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    if scheme.weights.symmetric:
        scale = (torch.maximum(-low, high) / 7.5).clamp_min(1e-8)
        zero = torch.zeros_like(scale, dtype=torch.int8)
    else:
        scale = ((high - low) / 15).clamp_min(1e-8)
        zero = (-8 - low / scale).round().clamp(-8, 7).to(torch.int8)
    scale = scale.to(torch.float16)
    state = {"weight": weight.to(torch.float16), "weight_scale": scale, "weight_zero_point": zero}
    return PackedQuantizationCompressor.compress(state, scheme)


def write(base: Path, out: Path) -> Path:
    """Quantise every linear layer of a base to 4 bits."""
    shutil.copytree(base, out)
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        scheme = next((s for pattern, s in SCHEMES.items() if pattern[5:-2] in name), None)
        if scheme is None:
            tensors[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        tensors |= {f"{layer}.{part}": value.contiguous() for part, value in _quantized(tensor, scheme).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    groups = {f"group_{i}": scheme.model_dump(mode="json") for i, scheme in enumerate(SCHEMES.values())}
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = settings | {"config_groups": groups, "ignore": ["lm_head"]}
    (out / "config.json").write_text(json.dumps(config))
    return out


def decompressed(folder: Path) -> dict[str, torch.Tensor]:
    """The library's own reading of it: weights by name."""
    tensors = load_file(folder / "model.safetensors")
    read = {}
    for name in tensors:
        if name.endswith(".weight_packed"):
            layer = name.removesuffix(".weight_packed")
            scheme = next(s for pattern, s in SCHEMES.items() if pattern[5:-2] in name)
            parts = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{layer}.")}
            parts["weight_shape"] = torch.Size(parts["weight_shape"].tolist())
            read[f"{layer}.weight"] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"].float()
    return read
