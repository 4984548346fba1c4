"""`bundle.toml` as it is written: its keys, their types, and what is wrong with them, all of it at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from backend.bounded_read import read_text
from backend.errors import BackendError, BundleError

# names end up in file names, element keys and arguments of a server
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,60}$")]
_Path = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptEntry(_Strict):
    """How prompts are made."""

    max_tokens: int = Field(default=1024, gt=0)


class RuntimeEntry(_Strict):
    """One `[[runtime]]` table."""

    name: _Name
    engine: Literal["hf", "vllm", "recorded"] = "hf"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    checkpoint: Literal["base", "awq"] = "base"
    adapter: Literal["fitting", "original"] = "fitting"  # beside an AWQ base, fitting is the rescaled one if there is one
    urls: tuple[str, ...] = ()  # servers that run already; empty: the app starts one
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    remote_model: _Name = "base"
    remote_lora: _Name = "probe"
    cuda_graphs: bool = False  # of a vLLM server that the app starts, on a CUDA device
    recording: _Path | None = None  # file of a recorded runtime, which holds one of the same name


_HF = (RuntimeEntry(name="hf-bf16"), RuntimeEntry(name="hf-fp16", dtype="float16"))
_VLLM = RuntimeEntry(name="vllm-fp16", engine="vllm", dtype="float16")
_AWQ = RuntimeEntry(name="vllm-awq", engine="vllm", dtype="float16", checkpoint="awq")


class BundleFile(_Strict):
    """The whole file; paths are relative to its folder."""

    base: _Path | None  # None only where the file lacks it: a problem, but no reason to look at nothing else
    adapter: _Path | None = None
    heads: _Path = "probe_heads.pt"
    schemas: _Path = "function_schemas.json"
    dataset: _Path | None = None
    examples: _Path | None = None  # JSONL the playground offers; default the evaluation set
    awq: _Path | None = None  # 4-bit checkpoint of the same base
    awq_adapter: _Path | None = None  # adapter rescaled for it
    prompt: PromptEntry = PromptEntry()
    runtime: tuple[RuntimeEntry, ...] = ()  # empty: the arms that differ by one factor each

    def runtimes(self) -> tuple[RuntimeEntry, ...]:
        """Return the runtimes of the file, or those it has without naming any."""
        return self.runtime or (*_HF, _VLLM, *([_AWQ] if self.awq else []))


def read_bundle_file(folder: Path) -> tuple[BundleFile | None, list[BackendError]]:
    """Read what can be read of `bundle.toml`: wrong entries are left out and told, the rest is taken."""
    path = folder / "bundle.toml"
    try:
        raw = tomllib.loads(read_text(path, most=2**20))
    except FileNotFoundError:
        return None, [BundleError("No bundle.toml", found=str(folder), remedy="Name a folder that holds one.")]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        return None, [BundleError("bundle.toml cannot be read", found=str(error)[:200], remedy="Write it as UTF-8 TOML.")]
    content, problems = _validated(raw)
    return content, [*problems, *_repeated_names(content)]


def _validated(raw: dict[str, Any]) -> tuple[BundleFile, list[BackendError]]:
    try:
        return BundleFile.model_validate(raw), []
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    problems: list[BackendError] = [
        BundleError(
            "bundle.toml has a wrong entry",
            found=f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}"[:200],
            remedy="Correct or remove this key.",
        )
        for entry in wrong
    ]
    rest, more = _validated(_without(raw, [entry["loc"] for entry in wrong]))
    return rest, [*problems, *more]


def _without(raw: Mapping[str, Any], places: Sequence[tuple[int | str, ...]]) -> dict[str, Any]:
    """Return the entries that were not complained about; a `[[runtime]]` table goes as a whole."""
    rest = deepcopy(dict(raw))
    runtimes = rest.get("runtime")
    bad = {place[1] for place in places if place[0] == "runtime" and len(place) > 1}
    for place in places:
        if place[0] != "runtime" or len(place) == 1:
            rest.pop(str(place[0]), None)
    if bad and isinstance(runtimes, list):
        rest["runtime"] = [table for index, table in enumerate(runtimes) if index not in bad]
    return {"base": None} | rest


def _repeated_names(content: BundleFile) -> list[BackendError]:
    names = [entry.name for entry in content.runtimes()]
    return [
        BundleError("Two runtimes have one name", found=name, remedy="Rename one of them.")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
