"""Writes a bundle of a given shape with random weights: base BF16, AutoAWQ GEMM checkpoint, adapter, heads, tokenizer.

Random weights take as long as trained ones, and nothing has to be downloaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from backend.bundle import Bundle, load_bundle

GROUP = 128  # input channels that share a scale and a zero point
STD = 0.02
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 16
MAX_TOKENS = 1024
_TOML = f"""base = "base"
adapter = "adapter"
awq = "awq"
[prompt]
max_tokens = {MAX_TOKENS}
[[runtime]]
name = "hf-bf16"
[[runtime]]
name = "vllm-fp16"
engine = "vllm"
dtype = "float16"
cuda_graphs = {str(torch.cuda.is_available()).lower()}
[[runtime]]
name = "vllm-awq"
engine = "vllm"
dtype = "float16"
cuda_graphs = {str(torch.cuda.is_available()).lower()}
checkpoint = "awq"
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    def config(self) -> LlamaConfig:
        """Return the configuration that transformers and vLLM read."""
        return LlamaConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.intermediate,
            vocab_size=self.vocabulary,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            tie_word_embeddings=False,
            architectures=["LlamaForCausalLM"],
        )


LLAMA_8B = Shape(4096, 32, 32, 8, 14336, 128256)
SMALL = Shape(256, 2, 4, 2, 512, 4096)


def write_bundle(folder: Path, shape: Shape, *, source: Bundle, device: str) -> Bundle:
    """Write what is not there yet and return the bundle; tokenizer and schemas are those of `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("base", _write_base), ("awq", _write_awq), ("adapter", _write_adapter)):
        if not (folder / name / "done").exists():
            write(folder / name, shape, device)
            for path in Path(source.base).glob("tokenizer*.json"):
                shutil.copy(path, folder / name)
            (folder / name / "done").touch()
    d = shape.hidden
    heads = {
        "null_head": {"classifier.weight": torch.randn(2, d) * STD, "classifier.bias": torch.zeros(2)},
        "pointer_head": {"W_start.weight": torch.randn(d, d) * STD, "W_end.weight": torch.randn(d, d) * STD},
    }
    torch.save(heads, folder / "probe_heads.pt")
    shutil.copy(source.schemas, folder / "function_schemas.json")
    (folder / "bundle.toml").write_text(_TOML)
    return load_bundle(folder)


def _write_base(folder: Path, shape: Shape, device: str) -> None:
    _save_shards(folder, shape.config(), lambda name, size: {name: _weight(name, size, device, torch.bfloat16)})
    shape.config().save_pretrained(folder)
    _note(folder, dtype="bfloat16")


def _write_awq(folder: Path, shape: Shape, device: str) -> None:
    def make(name: str, size: tuple[int, ...]) -> dict[str, Tensor]:
        if ".layers." in name and name.endswith("_proj.weight"):
            return _quantized(name.removesuffix(".weight"), size, device)
        return {name: _weight(name, size, device, torch.float16)}

    _save_shards(folder, shape.config(), make)
    shape.config().save_pretrained(folder)
    quantization = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}
    _note(folder, dtype="float16", quantization_config=quantization)


def _write_adapter(folder: Path, shape: Shape, device: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    config.save_pretrained(folder)
    tensors = {}
    for name, size in _shapes(shape.config()):
        if name.split(".")[-2] in TARGETS:
            n_out, n_in = size
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, n_in) * STD
            tensors[f"{stem}.lora_B.weight"] = torch.randn(n_out, RANK) * STD
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _save_shards(
    folder: Path, config: LlamaConfig, make: Callable[[str, tuple[int, ...]], dict[str, Tensor]], *, threads: int = 4
) -> None:
    """Make and write tensors a layer at a time, in a few threads: one file of 16 GB would be copied in memory first."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, size in _shapes(config):
        parts = name.split(".")
        groups.setdefault(parts[2] if "layers" in parts else parts[-2], []).append((name, size))

    def write(group: str) -> list[tuple[str, str, int]]:
        tensors = {key: t.cpu() for name, size in groups[group] for key, t in make(name, size).items()}
        save_file(tensors, folder / f"model-{group}.safetensors", metadata={"format": "pt"})
        return [(key, f"model-{group}.safetensors", t.numel() * t.element_size()) for key, t in tensors.items()]

    with ThreadPoolExecutor(threads) as pool:
        written = [entry for part in pool.map(write, groups) for entry in part]
    index = {
        "metadata": {"total_size": sum(size for *_, size in written)},
        "weight_map": {key: file for key, file, _ in written},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shapes(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        yield name, tuple(parameter.shape)


def _weight(name: str, size: tuple[int, ...], device: str, dtype: torch.dtype) -> Tensor:
    if "norm" in name:
        return torch.ones(size, dtype=dtype)
    return torch.randn(size, dtype=dtype, device=device) * STD


def _quantized(stem: str, size: tuple[int, ...], device: str) -> dict[str, Tensor]:
    """Random 4-bit weights in AutoAWQ's GEMM layout, eight to an int32, of about the spread of real ones.

    Zero points are 7 or 8 at random: weights from 0 to 15 around either alone lean to one side by half a step, which 32
    layers blow up to infinity.
    """
    n_out, n_in = size
    low, high = -(2**31), 2**31 - 1
    whole = torch.randint(low, high, (n_in, n_out // 8), dtype=torch.int32, device=device)
    eighths = torch.randint(0, 2, (n_in // GROUP, n_out // 8, 8), dtype=torch.int32, device=device) + 7
    places = 4 * torch.arange(8, dtype=torch.int32, device=device)
    zeros = (eighths << places).sum(-1, dtype=torch.int64).to(torch.int32)  # wraps: the top bit is the sign
    scales = torch.full((n_in // GROUP, n_out), STD / 4.6, dtype=torch.float16, device=device)
    return {f"{stem}.qweight": whole, f"{stem}.qzeros": zeros, f"{stem}.scales": scales}


def _note(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=1))
