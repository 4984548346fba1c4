"""An adapter turned up, down or off in parts, for asking what a faulty deployment would have answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_LAYER = re.compile(r"\blayers\.\d+\b")


@dataclass(frozen=True, slots=True)
class AdapterEdit:
    """How the adapter's effect is changed; the default changes nothing."""

    scale: float = 1.0  # times the trained alpha / r
    without: frozenset[str] = frozenset()  # groups of modules that get no adapter: layers.3, q_proj


def adapter_groups(model: Any) -> tuple[str, ...]:
    """Return the layers and the kinds of modules an adapter touches, in order of appearance."""
    names = [name for name, _ in _adapted(model)]
    layers = [found[0] for name in names if (found := _LAYER.search(name)) is not None]
    kinds = [name.rsplit(".", 1)[-1] for name in names]
    return tuple(dict.fromkeys([*layers, *kinds]))


@contextmanager
def edited(model: Any, edit: AdapterEdit) -> Iterator[None]:
    """Change a `PeftModel` in place, and change it back; the caller holds whatever lock guards the model."""
    modules = list(_adapted(model))
    try:
        for name, module in modules:
            off = any(f".{group}." in f".{name}." for group in edit.without)
            for adapter in module.active_adapters:
                module.set_scale(adapter, 0.0 if off else edit.scale)
        yield
    finally:
        for _, module in modules:
            for adapter in module.active_adapters:
                module.set_scale(adapter, 1.0)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
