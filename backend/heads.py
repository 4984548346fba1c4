"""The two trained heads: reading them from disk, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

_SHAPES = {
    "null_head.classifier.weight": (2, "d"),
    "null_head.classifier.bias": (2,),
    "pointer_head.W_start.weight": ("d", "d"),
    "pointer_head.W_end.weight": ("d", "d"),
}


@dataclass(frozen=True, slots=True)
class Heads:
    """NullHead and PointerHead weights, float32 on one device."""

    null_weight: Tensor  # [2, d]; row 0 present, row 1 absent
    null_bias: Tensor  # [2]
    w_start: Tensor  # [d, d]
    w_end: Tensor  # [d, d]

    @property
    def d_model(self) -> int:
        """Hidden size the heads were trained for."""
        return int(self.w_start.shape[1])

    def to(self, device: str) -> Heads:
        """Return the heads on `device`, these themselves where they are there already."""
        import torch

        if self.w_start.device == torch.device(device):
            return self
        return Heads(*(getattr(self, field.name).to(device) for field in fields(self)))

    def null_logits(self, queries: Tensor) -> Tensor:
        """``[n, d]`` query states to ``[n, 2]`` logits: present, absent."""
        logits: Tensor = queries @ self.null_weight.T + self.null_bias
        return logits

    def pointer_queries(self, queries: Tensor) -> Tensor:
        """``[n, d]`` query states to ``[2, n, d]``: what start and end scores are dot products with."""
        import torch

        stacked: Tensor = torch.stack([queries @ self.w_start.T, queries @ self.w_end.T]) / self.d_model**0.5
        return stacked


def load_heads(path: Path) -> Heads:
    """Read ``probe_heads.pt`` (tensors only) or ``.safetensors`` with dotted names.

    Raises:
        BundleError: naming every missing, misshapen or non-finite tensor.
    """
    tensors = _flatten(_read(path))
    problems = _problems(tensors)
    if problems:
        raise BundleError(
            f"{path.name} does not hold the two heads",
            found="; ".join(problems),
            remedy="Save it with the upstream training script.",
        )
    weight, bias, start, end = (tensors[name].detach().float().cpu().contiguous() for name in _SHAPES)
    return Heads(null_weight=weight, null_bias=bias, w_start=start, w_end=end)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise BundleError("The probe heads are missing", found=f"no file {path.name}", remedy="Add it to the bundle.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        # weights_only: a pickle from a stranger must not run code
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch and safetensors raise a dozen types for damaged files, all of which mean the same here
        raise BundleError(
            f"{path.name} cannot be read as plain tensors",
            found=str(error).split("\n")[0][:160],
            remedy="Save it again with torch.save of state dicts, or as safetensors.",
        ) from error
    if not isinstance(content, Mapping):
        raise BundleError(f"{path.name} is not a dictionary", found=type(content).__name__, remedy="Save state dicts.")
    return content


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif hasattr(value, "shape"):
            flat[f"{prefix}{name}"] = value
    return flat


def _problems(tensors: Mapping[str, Tensor]) -> list[str]:
    missing = [f"no {name}" for name in _SHAPES if name not in tensors]
    if missing:
        return missing
    d = tensors["pointer_head.W_start.weight"].shape[-1]
    problems = []
    for name, shape in _SHAPES.items():
        expected = tuple(d if size == "d" else size for size in shape)
        if tuple(tensors[name].shape) != expected:
            problems.append(f"{name} is {list(tensors[name].shape)}, expected {list(expected)}")
        elif not tensors[name].isfinite().all():
            problems.append(f"{name} holds NaN or infinity")
    return problems
