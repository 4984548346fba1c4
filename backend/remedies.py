"""What to do about each cause."""

from __future__ import annotations

from backend.diagnosis_types import Cause

REMEDIES = {
    Cause.NORMALIZATION: "Switch pooling normalisation off: `python -m backend serve-command` prints the configuration for "
    "the installed vLLM. Until then, divide the null bias by the mean norm: b' = b / mean(n).",
    Cause.LORA_NOT_APPLIED: "Name the adapter in the request and check the prefix of its keys with "
    "`python -m backend bundle verify`.",
    Cause.LORA_PARTIAL: "Some layers' tensors do not bind: `python -m backend bundle verify` lists them.",
    Cause.LORA_SCALE: "Compare the served lora_alpha and r with the trained ones; is it merged too?",
    Cause.OTHER_ADAPTER: "The served adapter is not the one that was trained: compare files and paths.",
    Cause.ADAPTER_MISFIT: "AWQ folded channel scales into norms and layers: run `python -m backend rescale-adapter`.",
    Cause.OTHER_SOURCE: "The served base is another model or revision: quantise or serve the one the probe was trained on.",
    Cause.QUANTIZATION_DRIFT: "4-bit weights moved a clear answer: calibrate with more of your own prompts, or serve FP16.",
    Cause.QUANTIZATION_NEAR_TIE: "Nothing is broken: the baseline itself was nearly undecided.",
    Cause.DTYPE_DRIFT: "Nothing is broken: another dtype rounds differently. Serve in the dtype the probe was trained in.",
    Cause.ENGINE_DRIFT: "Run `python -m backend check`: the engines should agree more closely than this.",
    Cause.ROWS_SHIFTED: "States belong to other tokens: check for a double BOS and for truncation.",
    Cause.TOKEN_MISMATCH: "Send the same token ids to every runtime; check for double BOS and truncation.",
    Cause.NON_FINITE: "Serve in BF16 or FP32, or check the checkpoint: FP16 may overflow.",
    Cause.RAW_GOLD: "Compare with the text of the gold tokens, not with the raw label: the tokenizer merges characters.",
    Cause.DECODING: "Both arms must decode alike: choose upstream or joint for both.",
    Cause.NULL_THRESHOLD: "The pointer is right but the slot is called absent: move the null threshold (Evaluate page).",
    Cause.MODEL_ERROR: "The deployment is faithful: the probe itself needs more or better training data.",
    Cause.NONE: "Nothing to do.",
}
