"""What an adapter says it changes, and which of that a server would really bind.

vLLM 0.32 loads ``base_model.model.layers...`` and ``base_model.model.model.layers...``; tensors under any other prefix
(``backbone.``, ``module.``, ``_orig_mod.``) it ignores without a word, and the adapter does nothing, or half of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import strict_json
from backend.errors import BundleError, InputError
from backend.tensors import tensor_shapes
from backend.weight_files import require_adapter_weights

_KEY = re.compile(r"^base_model\.model\.(?:model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")
# vLLM takes only these values, or none
_REJECTED: dict[str, Any] = {
    **{"peft_type": "LORA", "bias": "none", "use_dora": False, "lora_bias": False, "modules_to_save": None},
    **dict.fromkeys(("alora_invocation_tokens", "layer_replication", "trainable_token_indices")),
    **dict.fromkeys(("use_bdlora", "use_qalora")),
}
_UNSET: tuple[Any, ...] = (False, [], {}, "", None)


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """An adapter's tensors against the modules of its base."""

    rank: int
    alpha: float
    bound: tuple[str, ...]  # modules both sides of the adapter reach, as layers.0.self_attn.q_proj
    unmatched: tuple[str, ...]  # tensors that reach no module
    missing: tuple[str, ...]  # modules the configuration names that no tensor reaches
    unsupported: tuple[str, ...]  # settings vLLM rejects
    misshapen: tuple[str, ...]  # tensors whose rank or width does not fit


def inspect_adapter(adapter: Path, base: Path | None) -> AdapterReport:
    """Read headers only, no weights; without a base nothing is said about modules.

    Raises:
        BundleError: if configuration or tensors cannot be read.
    """
    require_adapter_weights(str(adapter.resolve()))
    config = _read_config(adapter)
    shapes = tensor_shapes(adapter)
    rank, alpha = (_number(config, key) for key in ("r", "lora_alpha"))
    unsupported = tuple(f"{k} = {config[k]!r}" for k, v in _REJECTED.items() if config.get(k, v) not in (v, *_UNSET))
    modules = _base_modules(base)
    if modules is None:
        return AdapterReport(int(rank), alpha, (), (), (), unsupported, ())
    sides: dict[str, set[str]] = {}
    unmatched, misshapen = [], []
    for name, shape in sorted(shapes.items()):
        found = _KEY.match(name)
        module = found[1] if found else ""
        if found is None or module not in modules:
            unmatched.append(name)
            continue
        sides.setdefault(module, set()).add(found[2])
        expected = (rank, modules[module][1]) if found[2] == "A" else (modules[module][0], rank)
        if 0 not in expected and shape != expected:
            misshapen.append(f"{name} is {list(shape)}, expected {list(expected)}")
    bound = tuple(module for module, both in sides.items() if both == {"A", "B"})
    wanted = [module for module in modules if _is_target(module, config.get("target_modules"))]
    return AdapterReport(
        rank=int(rank),
        alpha=alpha,
        bound=bound,
        unmatched=tuple(unmatched),
        missing=tuple(module for module in wanted if module not in bound),
        unsupported=unsupported,
        misshapen=tuple(misshapen),
    )


def _number(config: dict[str, Any], key: str) -> float:
    value = config.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleError(f"adapter_config.json: {key} is no number", found=repr(value)[:60], remedy="Save it again.")
    return value


def _base_modules(base: Path | None) -> dict[str, tuple[int, int]] | None:
    try:
        return None if base is None else _modules(base)
    except BundleError:
        return None  # damaged weights of the base are a problem of the base


def _read_config(adapter: Path) -> dict[str, Any]:
    try:
        config = strict_json.load(adapter / "adapter_config.json")
    except InputError as error:
        raise BundleError(error.what, found=error.found, remedy="Save it again.") from error
    if not isinstance(config, dict):
        raise BundleError("adapter_config.json is not an object", found=type(config).__name__, remedy="Save it again.")
    return config


def _modules(base: Path) -> dict[str, tuple[int, int]]:
    """Return ``{module: (d_out, d_in)}`` of the base's linear layers; packed AWQ layers have 0 where it is not plain."""
    modules = {}
    for name, shape in tensor_shapes(base).items():
        stem, _, kind = name.removeprefix("model.").rpartition(".")
        if kind == "weight" and len(shape) == 2 and ".layers." in f".{stem}":
            modules[stem] = (shape[0], shape[1])
        elif kind in ("qweight", "weight_packed"):
            modules[stem] = (0, 0)
    return modules


def _is_target(module: str, targets: Any) -> bool:
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, module) is not None
    return isinstance(targets, list) and any(module == t or module.endswith(f".{t}") for t in targets)
