"""Refuses checkpoints whose configuration makes transformers, PEFT or vLLM fetch or import code.

`trust_remote_code` is off everywhere, which stops `auto_map` but not the rest: transformers 5.19 fetches an attention
kernel named ``owner/name`` from the hub, also in place of a flash attention that is not installed, and several quantisation
methods bring kernels of their own; PEFT 0.21 imports the module that ``megatron_core`` names. So only known values pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend import strict_json
from backend.errors import BackendError, BundleError, InputError

CONFIG_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")
_ATTENTION = ("eager", "sdpa", None)
_QUANTIZATION = ("awq", "compressed-tensors")  # the two this project serves
# code, kernels or files that a configuration may name; empty they ask for nothing
_NEVER = ("auto_map", "custom_pipelines", "megatron_config", "kernel_config", "use_kernels", "transformers_weights")
_REMEDY = "Remove this key if you trust the rest of the checkpoint."


def refuse_foreign_code(source: str, *, offline: bool = False) -> None:
    """Raise `BundleError` for the first such key of a checkpoint's folder, or of a hub id's configuration files."""
    for problem in foreign_code(source, offline=offline):
        raise problem


def foreign_code(source: str, *, offline: bool = False) -> Iterator[BackendError]:
    """Yield a problem for each key that is not allowed, and for each configuration that is not JSON."""
    for path in _configs(source, offline=offline):
        try:
            content = strict_json.load(path)
        except InputError as error:
            yield BundleError(error.what, found=error.found, remedy=error.remedy)
            continue
        for key, value in _entries(content):
            if not _allowed(key, value):
                found = f"{key}: {value!r}"[:120]
                yield BundleError(f"{path.name} asks for code from elsewhere", found=found, remedy=_REMEDY)


def _configs(source: str, *, offline: bool) -> Iterator[Path]:
    folder = Path(source)
    if folder.is_dir():
        yield from (folder / name for name in CONFIG_FILES if (folder / name).is_file())
        return
    from transformers.utils.hub import cached_file

    for name in CONFIG_FILES:
        try:
            found = cached_file(source, name, local_files_only=offline, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return  # loading it will say that there is no such checkpoint
        if found is not None:
            yield Path(found)


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(content, list):
        for value in content:
            yield from _entries(value)


def _allowed(key: str, value: Any) -> bool:
    if key in _NEVER:
        return not value
    if key == "trust_remote_code":
        return value is False
    if key == "quant_method":
        return value in _QUANTIZATION
    if key.endswith(("attn_implementation", "experts_implementation", "_implementation_internal")):
        return all(choice in _ATTENTION for choice in (value.values() if isinstance(value, Mapping) else [value]))
    return True
