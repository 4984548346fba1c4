"""Which files of weights a checkpoint brings: safetensors of its own folder, whole, and nothing that is read beside them.

transformers and vLLM take more than that: ``pytorch_model.bin`` where safetensors are missing, whatever an index names,
an adapter that lies in the base's folder, random numbers for layers that a quantised checkpoint lacks.
"""

from __future__ import annotations

import re
from pathlib import Path

from backend import strict_json
from backend.errors import BundleError, InputError
from backend.tensors import tensor_shapes

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_LAYERS = "num_hidden_layers"
_SIZES = (
    _LAYERS,
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_COPY = "Copy the checkpoint again; config.json and the weights must belong together."
_SAVE = "Save them as safetensors."


def require_model_weights(folder: Path) -> None:
    """Check a base or quantised checkpoint's folder from names and headers alone.

    Raises:
        BundleError: no safetensors, an index that leads elsewhere, an adapter beside the weights, or layers missing.
    """
    _check_index(folder)
    if (folder / "adapter_config.json").exists():
        raise BundleError(
            "The model's folder holds an adapter, which would be added without a word",
            found=f"{folder.name}/adapter_config.json",
            remedy="Move the adapter into a folder of its own.",
        )
    shapes = tensor_shapes(folder)
    sizes = _sizes(folder)
    largest = max((side for shape in shapes.values() for side in shape), default=0)
    for key in (key for key, value in sizes.items() if value > largest and key != _LAYERS):
        raise BundleError(
            "config.json does not belong to the weights",
            found=f"{key} {sizes[key]}, no tensor has a side above {largest}",
            remedy=_COPY,
        )
    there = {int(found[1]) for name in shapes if (found := _LAYER.search(name))}
    n = sizes.get(_LAYERS, 0)
    if there and not n <= len(there):
        first = next(layer for layer in range(n) if layer not in there)
        raise BundleError(
            "The weights are incomplete",
            found=f"config.json has {n} layers, the weights {len(there)}: they lack layer {first}",
            remedy=_COPY,
        )


def require_adapter_weights(adapter: str) -> None:
    """Raise `BundleError` where PEFT and vLLM would look further: for a pickle beside it, or on the hub."""
    folder = Path(adapter)
    if folder.is_absolute() or folder.is_dir():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise BundleError("No weights", found=f"no {ADAPTER_WEIGHTS} in {folder.name}", remedy=_SAVE)
        return
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(adapter, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        text = str(error).split("\n")[0][:160]
        raise BundleError("The adapter cannot be loaded", found=text, remedy="Name a folder or a hub id.") from error
    if found is None:
        raise BundleError("No weights", found=f"no {ADAPTER_WEIGHTS} in {adapter}", remedy=_SAVE)


def _check_index(folder: Path) -> None:
    path = folder / _INDEX
    if not path.exists():
        return
    try:
        content = strict_json.load(path)
    except InputError as error:
        raise BundleError(error.what, found=error.found, remedy=error.remedy) from error
    parts = content.get("weight_map") if isinstance(content, dict) else None
    names = set(parts.values()) if isinstance(parts, dict) and all(isinstance(v, str) for v in parts.values()) else {""}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise BundleError(
                f"{_INDEX} names a file that is no safetensors of this folder", found=repr(name)[:120], remedy=_SAVE
            )


def _sizes(folder: Path) -> dict[str, int]:
    """Return the sizes that config.json names in the usual place; a model is made of them before weights are looked at."""
    try:
        content = strict_json.load(folder / "config.json")
    except InputError:
        return {}  # reading the configuration says what is wrong with it
    found = {key: content.get(key) for key in _SIZES} if isinstance(content, dict) else {}
    return {key: value for key, value in found.items() if isinstance(value, int)}
