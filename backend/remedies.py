"""What to do about each cause, with the configuration that the installed vLLM understands."""

from __future__ import annotations

import json

from backend.diagnosis_types import Cause
from backend.errors import PrerequisiteError
from backend.runtimes.base import Engine, RuntimeSpec
from backend.runtimes.vllm_compat import Spelling, serve_arguments, spelling_of, vllm_version

_REMEDIES = {
    Cause.NORMALIZATION: "Switch pooling normalisation off. Until then, divide the null bias by the mean norm of the "
    "query states: b' = b / mean(n) (Norms page).",
    Cause.LORA_NOT_APPLIED: "Name the adapter in every request, and check the prefix of its keys with "
    "`python -m backend bundle verify`.",
    Cause.LORA_PARTIAL: "Save the adapter from the PeftModel itself: `python -m backend bundle verify` lists "
    "what does not bind.",
    Cause.LORA_SCALE: "Set lora_alpha and r in adapter_config.json to what the adapter was trained with.",
    Cause.LORA_TWICE: "Serve the plain base with the adapter, or the merged base without it; or halve lora_alpha.",
    Cause.OTHER_ADAPTER: "The served adapter is not the one that was trained: compare files and paths.",
    Cause.ADAPTER_MISFIT: "AWQ folded channel scales into norms and layers: run `python -m backend rescale-adapter`.",
    Cause.OTHER_SOURCE: "The served base is another model or revision: serve the one the probe was trained on.",
    Cause.QUANTIZED_OTHER_SOURCE: "It was quantised from another model or revision: run `python -m backend quantize`.",
    Cause.CONFIG_MISMATCH: "Serve with the config.json of the base that the probe was trained on.",
    Cause.QUANTIZATION_DRIFT: "4-bit weights moved a clear answer: calibrate with more of your own prompts, or serve FP16.",
    Cause.QUANTIZATION_NEAR_TIE: "Nothing is broken: the baseline itself was nearly undecided.",
    Cause.DTYPE_DRIFT: "Nothing is broken: another dtype rounds differently. Serve in the dtype the probe was trained in.",
    Cause.ENGINE_DRIFT: "Run `python -m backend check`: the engines should agree more closely than this.",
    Cause.ROWS_SHIFTED: "States belong to other tokens: return the rows of exactly the ids that were sent.",
    Cause.EXTRA_BOS: "Send token ids, not text, or switch special tokens off (add_special_tokens=false).",
    Cause.TRUNCATED: "Raise the longest prompt that is served.",
    Cause.TOKEN_MISMATCH: "Send the same token ids to every runtime; check for special tokens that are added or dropped.",
    Cause.NON_FINITE: "Serve in BF16 or FP32, or check the checkpoint: FP16 may overflow.",
    Cause.RAW_GOLD: "Compare with the text of the gold tokens, not with the raw label: the tokenizer merges characters.",
    Cause.LABEL_WRONG: "Correct the label: its value is not the text at its offsets.",
    Cause.DECODING: "Both arms must decode alike: choose upstream or joint for both.",
    Cause.NULL_THRESHOLD: "The pointer is right but the slot is called absent: move the null threshold (Evaluate page).",
    Cause.MODEL_ERROR: "The deployment is faithful: the probe itself needs more or better training data.",
    Cause.NONE: "Nothing to do.",
}


def remedy(cause: Cause, spec: RuntimeSpec) -> str:
    """Return what to do about a cause at a runtime."""
    line = _configuration(cause, spec)
    return f"{_REMEDIES[cause]} Configuration: {line}" if line else _REMEDIES[cause]


def _configuration(cause: Cause, spec: RuntimeSpec) -> str:
    """Return the line for the installed vLLM, empty where none helps."""
    if spec.engine is not Engine.VLLM:
        return "forward option normalize = False" if cause is Cause.NORMALIZATION else ""
    try:
        spelling = spelling_of(vllm_version() or "")
    except PrerequisiteError:
        return "`python -m backend serve-command` prints it where vLLM is installed"
    return _line(cause, spec, spelling)


def _line(cause: Cause, spec: RuntimeSpec, spelling: Spelling) -> str:
    if cause is Cause.NORMALIZATION:
        request = json.dumps({spelling.normalize: False})
        return f"{spelling.config_flag} '{json.dumps(spelling.pooler_config())}', or {request} in each request"
    flags = {
        Cause.LORA_NOT_APPLIED: ("--enable-lora", "--max-loras", "--max-lora-rank", "--lora-modules"),
        Cause.LORA_PARTIAL: ("--lora-modules",),
        Cause.OTHER_ADAPTER: ("--lora-modules",),
        Cause.ADAPTER_MISFIT: ("--lora-modules",),
        Cause.LORA_TWICE: ("--model",),
        Cause.OTHER_SOURCE: ("--model",),
        Cause.QUANTIZED_OTHER_SOURCE: ("--model",),
        Cause.TRUNCATED: ("--max-model-len",),
    }.get(cause, ())
    if cause is Cause.NON_FINITE:
        return "--dtype bfloat16"
    arguments = serve_arguments(spec, spelling, port=8000)
    places = [arguments.index(flag) for flag in flags if flag in arguments]
    return " ".join(_with_value(arguments, place) for place in places)


def _with_value(arguments: list[str], place: int) -> str:
    value = arguments[place + 1] if place + 1 < len(arguments) else "--"
    if value.startswith("--"):
        return arguments[place]
    return f"{arguments[place]} {_short(value)}"


def _short(value: str) -> str:
    """Drop the folders of a path: a verdict may leave this machine."""
    name, equals, path = value.rpartition("=")
    return f"{name}{equals}{path.rsplit('/', 1)[-1]}"
