"""Checks that need no running engine: the adapter's keys, and whether two checkpoints come from one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from backend.adapter import inspect_adapter
from backend.awq.rescale import load_scales, max_scale_change
from backend.check_types import Check
from backend.errors import BackendError
from backend.runtimes.base import RuntimeSpec
from backend.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor


def file_checks(spec: RuntimeSpec, base_model: str, *, trained: str | None = None) -> Iterator[Check]:
    """Yield what a runtime's own files say; nothing for checkpoints that are not on this machine.

    ``trained`` is the adapter as it was trained, on ``base_model``.
    """
    if not Path(base_model).is_dir():
        return
    if spec.adapter is not None and Path(spec.adapter).is_dir():
        yield _adapter_keys(spec.adapter, base_model)
    if spec.model != base_model and Path(spec.model).is_dir():
        yield same_source(Path(spec.model), Path(base_model))
        if spec.adapter is not None:
            yield _adapter_fits(Path(spec.model), Path(base_model), rescaled=spec.adapter != trained)


def _adapter_keys(adapter: str, base: str) -> Check:
    name = "adapter keys"
    expected = "every tensor reaches a module, every target has both"
    try:
        report = inspect_adapter(Path(adapter), Path(base))
    except BackendError as error:
        return Check(name, False, str(error), expected, error.remedy)
    problems = [
        *(f"{key} matches no module" for key in report.unmatched[:2]),
        *(f"nothing for {module}" for module in report.missing[:2]),
        *report.misshapen[:2],
        *(f"vLLM rejects {setting}" for setting in report.unsupported),
    ]
    counts = f"{len(report.bound)} modules bound, {len(report.unmatched)} tensors unmatched, {len(report.missing)} missing"
    return Check(
        name,
        not problems,
        observed="; ".join([counts, *problems]),
        expected=expected,
        remedy="Save the adapter from the PeftModel itself, so that keys start with base_model.model.model.layers; "
        "vLLM ignores tensors under any other prefix without a word.",
    )


def same_source(quantized: Path, base: Path) -> Check:
    """Embeddings and final norm are not quantised: they must be equal, up to the dtype of the checkpoint."""
    name, expected = "same source model", "embeddings and final norm equal to the base's"
    try:
        ours, theirs = _unquantized(quantized), _unquantized(base)
    except BackendError as error:
        return Check(name, False, str(error), expected, error.remedy)
    for key in sorted(set(ours) | set(theirs)):
        if key not in ours or key not in theirs or ours[key].shape != theirs[key].shape:
            return Check(name, False, f"{key} is missing or has another shape", expected, _REMEDY)
        if not ours[key].allclose(theirs[key], rtol=1e-2, atol=1e-3):
            return Check(name, False, f"{key} differs", expected, _REMEDY)
    return Check(name, bool(ours), f"{len(ours)} tensors compared", expected, _REMEDY)


def _adapter_fits(awq: Path, base: Path, *, rescaled: bool) -> Check:
    name, expected = "adapter fits the AWQ scales", f"rescaled, or max |s - 1| at most {_MAX_SCALE_CHANGE}"
    try:
        scales, _ = load_scales(base, awq)
    except BackendError as error:
        return Check(name, False, str(error), expected, error.remedy)
    largest = max_scale_change(scale.values for scale in scales)
    return Check(
        name,
        rescaled or largest <= _MAX_SCALE_CHANGE,
        observed=f"max |s - 1| = {largest:.3f}, adapter {'rescaled' if rescaled else 'as trained on the plain base'}",
        expected=expected,
        remedy="AWQ folded channel scales into norms and layers: run `python -m backend rescale-adapter`.",
    )


_MAX_SCALE_CHANGE = 0.05  # a twentieth moves states less than 4-bit weights do
_REMEDY = "The quantised checkpoint was made from another model or revision: quantise this base."
_PLAIN = ("model.embed_tokens.weight", "model.norm.weight")


def _unquantized(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in read_tensors(folder, _PLAIN.__contains__)}
