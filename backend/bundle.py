"""`bundle.toml`: where base model, adapter, heads, schemas and evaluation set are, and which runtimes there are."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.errors import BundleError, InputError
from backend.probe import Probe
from backend.prompt import PromptBuilder, load_tokenizer
from backend.runtimes.base import Engine, RuntimeSpec

DEMO = Path(__file__).resolve().parent.parent / "demo" / "bundle"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Prompt(_Strict):
    max_tokens: int = 1024


class _Runtime(_Strict):
    name: str
    engine: Literal["hf", "vllm", "recorded"] = "hf"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    checkpoint: Literal["base", "awq"] = "base"
    adapter: Literal["fitting", "original"] = "fitting"  # beside an AWQ base, fitting is the rescaled one if there is one
    urls: tuple[str, ...] = ()  # servers that run already; empty: the app starts one
    device: str = "auto"
    remote_model: str = "base"
    remote_lora: str = "probe"
    recording: str = ""  # file of a recorded runtime, which holds one of the same name


_HF = (_Runtime(name="hf-bf16"), _Runtime(name="hf-fp16", dtype="float16"))
_VLLM = _Runtime(name="vllm-fp16", engine="vllm", dtype="float16")
_AWQ = _Runtime(name="vllm-awq", engine="vllm", dtype="float16", checkpoint="awq")


class _File(_Strict):
    base: str
    adapter: str | None = None
    heads: str = "probe_heads.pt"
    schemas: str = "function_schemas.json"
    dataset: str | None = None
    examples: str | None = None  # JSONL the playground offers; default the evaluation set
    awq: str | None = None  # 4-bit checkpoint of the same base
    awq_adapter: str | None = None  # adapter rescaled for it
    prompt: _Prompt = _Prompt()
    runtime: tuple[_Runtime, ...] = ()  # empty: the arms that differ by one factor each

    def runtimes(self) -> tuple[_Runtime, ...]:
        return self.runtime or (*_HF, _VLLM, *([_AWQ] if self.awq else []))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle with its paths resolved; nothing is loaded yet."""

    folder: Path
    base: str  # directory or hub id
    adapter: str | None
    heads: Path
    schemas: Path
    dataset: Path | None
    examples: Path | None
    awq: str | None
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
    files = [content.heads, content.schemas, *(name for name in (content.dataset, content.examples) if name)]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise BundleError("Files of the bundle are missing", found="no " + ", no ".join(missing), remedy="Add them.")
    return Bundle(
        folder=folder,
        base=_model(folder, content.base),
        adapter=_model(folder, content.adapter) if content.adapter else None,
        heads=folder / content.heads,
        schemas=folder / content.schemas,
        dataset=folder / content.dataset if content.dataset else None,
        examples=folder / chosen if (chosen := content.examples or content.dataset) else None,
        awq=_model(folder, content.awq) if content.awq else None,
        max_tokens=content.prompt.max_tokens,
        runtimes=tuple(_spec(folder, content, entry) for entry in content.runtimes()),
    )


def _spec(folder: Path, content: _File, entry: _Runtime) -> RuntimeSpec:
    awq = entry.checkpoint == "awq"
    if awq and content.awq is None:
        raise BundleError(
            "bundle.toml has no AWQ checkpoint",
            found=f"runtime {entry.name} asks for it",
            remedy="Make one with `python -m backend quantize`, or take the runtime out.",
        )
    rescaled = awq and entry.adapter == "fitting" and content.awq_adapter is not None
    chosen = content.awq_adapter if rescaled else content.adapter
    adapter = _model(folder, chosen) if chosen else None
    return RuntimeSpec(
        name=entry.name,
        engine=Engine(entry.engine),
        model=_model(folder, (content.awq if awq else None) or content.base),
        dtype=entry.dtype,
        adapter=adapter,
        urls=entry.urls,
        device=entry.device,
        max_tokens=content.prompt.max_tokens,
        remote_model=entry.remote_model,
        remote_lora=entry.remote_lora,
        recording=str(folder / entry.recording) if entry.recording else "",
        max_lora_rank=_rank(adapter),
    )


def _rank(adapter: str | None) -> int:
    """Return the smallest rank limit vLLM knows that holds the adapter; a larger one only costs time."""
    try:
        rank = int(json.loads((Path(adapter or "") / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return 16  # no adapter, or one that loading it will complain about
    return next((limit for limit in (1, 8, 16, 32, 64, 128, 256, 320) if limit >= rank), 512)


def _model(folder: Path, name: str) -> str:
    """Return the directory inside the bundle if it exists, the hub id otherwise."""
    return str(folder / name) if (folder / name).is_dir() else name
