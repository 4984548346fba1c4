"""Writes a `bundle.toml` for files that are there already: what a training script left, a base, servers that run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.bounded_read import read_text
from backend.errors import InputError

_HEADS = ("probe_heads.pt", "probe_heads.safetensors")
_DATASETS = ("heldout.jsonl", "dataset.jsonl", "eval.jsonl", "test.jsonl")


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """What goes into `bundle.toml`; paths and hub ids as somebody wrote them, empty for what there is not."""

    base: str
    adapter: str = ""
    heads: str = "probe_heads.pt"
    schemas: str = "function_schemas.json"
    dataset: str = ""
    awq: str = ""
    awq_adapter: str = ""
    max_tokens: int = 1024
    servers: tuple[str, ...] = ()  # URLs that serve the base in float16; equal replicas
    awq_servers: tuple[str, ...] = ()  # URLs that serve awq
    served_model: str = "base"  # the servers' name of the base
    served_lora: str = "probe"  # the servers' name of the adapter


def guess(folder: Path) -> BundlePlan:
    """Look at a folder and name what it holds; keys that nothing was found for stay empty."""
    configs = {path.parent.name: _json(path) for path in sorted(folder.glob("*/config.json"))}
    quantized = [name for name, config in configs.items() if "quantization_config" in config]
    plain = [name for name in configs if name not in quantized]
    adapters = [path.parent.name for path in sorted(folder.glob("*/adapter_config.json"))]
    trained_on = str(_json(folder / (adapters or [""])[0] / "adapter_config.json").get("base_model_name_or_path") or "")
    return BundlePlan(
        base=next(iter(plain), trained_on),
        adapter=next(iter(adapters), ""),
        heads=_first(folder, _HEADS) or _HEADS[0],
        dataset=_first(folder, _DATASETS),
        awq=next(iter(quantized), ""),
        awq_adapter=adapters[1] if quantized and len(adapters) > 1 else "",
    )


def write_bundle(folder: Path, plan: BundlePlan) -> Path:
    """Write `bundle.toml` into a folder, which is made if need be, and return its path.

    Raises:
        InputError: no base was given, a `bundle.toml` is there already, or the folder cannot be written.
    """
    if not plan.base:
        raise InputError("No base model", remedy="Name a folder or a hub id with --base.")
    path = folder / "bundle.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # fails where there is one: nothing is overwritten
            file.write(bundle_toml(plan, folder))
    except FileExistsError as error:
        raise InputError(
            "There is a bundle.toml already", found=str(path), remedy="Edit it, or move it away; it was left as it is."
        ) from error
    except OSError as error:
        raise InputError("bundle.toml cannot be written", found=str(error), remedy="Name another folder.") from error
    return path


def bundle_toml(plan: BundlePlan, folder: Path) -> str:
    """Return the text of `bundle.toml`, with paths inside the folder made relative to it."""
    keys = ("base", "adapter", "heads", "schemas", "dataset", "awq", "awq_adapter")
    lines = [f"{key} = {_toml(_inside(getattr(plan, key), folder))}" for key in keys if getattr(plan, key)]
    lines += ["", "[prompt]", f"max_tokens = {plan.max_tokens}"]
    for table in _runtimes(plan):
        lines += ["", "[[runtime]]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _runtimes(plan: BundlePlan) -> Iterator[dict[str, object]]:
    """Yield the tables for servers; without any, the file needs none: the arms that differ by one factor each."""
    if not plan.servers and not plan.awq_servers:
        return
    names = {"remote_model": plan.served_model, "remote_lora": plan.served_lora}
    served: dict[str, object] = {"engine": "vllm", "dtype": "float16", **names}
    yield {"name": "hf-bf16"}
    if plan.servers:
        yield {"name": "vllm-fp16", **served, "urls": list(plan.servers)}
    if plan.awq_servers:
        yield {"name": "vllm-awq", **served, "checkpoint": "awq", "urls": list(plan.awq_servers)}


def _inside(name: str, folder: Path) -> str:
    """Return a path as the bundle writes it: relative where it lies inside, absolute elsewhere, a hub id as it is."""
    if (folder / name).exists() and not Path(name).is_absolute():
        return name
    path = Path(name).expanduser()
    if not path.exists():
        return name  # a hub id, or a file that is still to come; verifying tells
    full = path.resolve()
    return os.path.relpath(full, folder.resolve()) if full.is_relative_to(folder.resolve()) else str(full)


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and lists are spelt as in JSON


def _first(folder: Path, names: tuple[str, ...]) -> str:
    return next((name for name in names if (folder / name).is_file()), "")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
