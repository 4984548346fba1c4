"""`bundle.toml`: where base model, adapter, heads, schemas and evaluation set are, and which runtimes there are."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.errors import BundleError, InputError
from backend.probe import Probe
from backend.prompt import PromptBuilder, load_tokenizer
from backend.runtimes.base import Engine, RuntimeSpec


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Prompt(_Strict):
    max_tokens: int = 1024


class _Runtime(_Strict):
    name: str
    engine: Literal["hf"] = "hf"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class _File(_Strict):
    base: str
    adapter: str | None = None
    heads: str = "probe_heads.pt"
    schemas: str = "function_schemas.json"
    dataset: str | None = None
    prompt: _Prompt = _Prompt()
    runtime: tuple[_Runtime, ...] = (
        _Runtime(name="hf-bf16"),
        _Runtime(name="hf-fp16", dtype="float16"),
    )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle with its paths resolved; nothing is loaded yet."""

    folder: Path
    base: str  # directory or hub id
    adapter: str | None
    heads: Path
    schemas: Path
    dataset: Path | None
    max_tokens: int  # longest prompt, in tokens
    runtimes: tuple[RuntimeSpec, ...]

    def runtime(self, name: str) -> RuntimeSpec:
        """Find a runtime by name; raises `InputError` listing the names there are."""
        for spec in self.runtimes:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self.runtimes)
        raise InputError("Unknown runtime", found=name, remedy=f"Choose one of: {known}.")

    def load_probe(self) -> Probe:
        """Load heads and tokenizer; raises `BundleError` where either cannot be read."""
        builder = PromptBuilder(load_tokenizer(self.base), max_tokens=self.max_tokens)
        return Probe.load(self.heads, builder=builder)


def load_bundle(folder: Path) -> Bundle:
    """Read `bundle.toml` of a folder.

    Raises:
        BundleError: if the file is missing, is not TOML, holds unknown keys or names files that are not there.
    """
    path = folder / "bundle.toml"
    try:
        content = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BundleError("No bundle.toml", found=str(folder), remedy="Name a folder that holds one.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BundleError("bundle.toml cannot be read", found=str(error), remedy="Write it as UTF-8 TOML.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleError("bundle.toml has wrong entries", found=problems, remedy="Correct these keys.") from error
    files = [content.heads, content.schemas, *([content.dataset] if content.dataset else [])]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise BundleError("Files of the bundle are missing", found=", ".join(missing), remedy="Add them to the folder.")
    base = _model(folder, content.base)
    adapter = _model(folder, content.adapter) if content.adapter else None
    return Bundle(
        folder=folder,
        base=base,
        adapter=adapter,
        heads=folder / content.heads,
        schemas=folder / content.schemas,
        dataset=folder / content.dataset if content.dataset else None,
        max_tokens=content.prompt.max_tokens,
        runtimes=tuple(
            RuntimeSpec(
                name=r.name,
                engine=Engine(r.engine),
                model=base,
                dtype=r.dtype,
                adapter=adapter,
                max_tokens=content.prompt.max_tokens,
            )
            for r in content.runtime
        ),
    )


def _model(folder: Path, name: str) -> str:
    """Return the directory inside the bundle if it exists, the hub id otherwise."""
    return str(folder / name) if (folder / name).is_dir() else name
