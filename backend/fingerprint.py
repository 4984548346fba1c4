"""What a result depends on, as digests: resuming under other conditions would mix two experiments."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from backend.bundle import Bundle
from backend.dataset import file_sha256
from backend.runtimes.base import RuntimeSpec
from backend.runtimes.vllm_compat import vllm_version

_PACKAGES = ("torch", "transformers", "peft", "tokenizers")


def fingerprint(bundle: Bundle, specs: Sequence[RuntimeSpec], dataset: Path) -> dict[str, str]:
    """Return digests by what they cover; raises `InputError` if the dataset cannot be read."""
    models = {spec.model for spec in specs} | {spec.adapter for spec in specs if spec.adapter} | {bundle.base}
    weights = [file for model in sorted(models) for file in _files(model)]
    recordings = sorted({Path(spec.recording) for spec in specs if spec.recording})
    return {
        "dataset": file_sha256(dataset),
        "bundle": _of_files([bundle.heads, bundle.schemas, *recordings, *weights]),
        "runtimes": _of_text(repr(sorted(map(repr, specs)))),
        "versions": " ".join([*(f"{name} {_version(name)}" for name in _PACKAGES), f"vllm {vllm_version()}"]),
        "code": _of_files(sorted(Path(__file__).parent.rglob("*.py"))),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"  # recorded runtimes need none of them


def _files(model: str) -> list[Path]:
    folder = Path(model)
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _of_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + file_sha256(path).encode())
    return digest.hexdigest()[:16]


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
