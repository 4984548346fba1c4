"""A 4-bit AWQ checkpoint of a base model, made with AutoAWQ and measured before it is kept."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.awq.dequantize import SCALES_FILE, dequantized_state
from backend.awq.rescale import max_scale_change
from backend.errors import CheckFailed, InputError, PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

GROUP_SIZE = 128
_MAX_LOSS_CHANGE = 0.05  # relative; corrupted weights moved it by 8 % and cost 22 points of exact match
_BLOCK = 256  # tokens in one calibration sequence


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What quantising did to the model, on the prompts it was calibrated with."""

    folder: Path
    loss_before: float  # cross-entropy of the next token, nats
    loss_after: float
    max_scale_change: float  # max |s - 1| over the channel scales folded into norms and layers
    n_tokens: int

    @property
    def loss_change(self) -> float:
        """Return the relative change of the loss."""
        return self.loss_after / self.loss_before - 1


def quantize_base(base: Path, out: Path, prompts: Sequence[Sequence[int]]) -> QuantizeReport:
    """Quantise ``base`` with ``prompts`` (token ids) as calibration data and write the checkpoint to ``out``.

    Raises:
        PrerequisiteError: AutoAWQ is not installed.
        InputError: ``out`` exists, or there is too little calibration text.
        CheckFailed: the loss moved by more than 5 %; nothing is kept.
    """
    if out.exists():
        raise InputError("The output folder exists", found=str(out), remedy="Remove it, or name another with --out.")
    blocks = [list(row) for row in prompts]
    n_tokens = sum(map(len, blocks))
    if n_tokens < 2 * _BLOCK:
        raise InputError("Too little calibration text", found=f"{n_tokens} tokens", remedy=f"Give {2 * _BLOCK} or more.")
    before = _loss(_plain_model(base), blocks)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    scales = _run_autoawq(base, partial, blocks)
    after = _loss(_dequantized_model(base, partial), blocks)
    report = QuantizeReport(out, before, after, max_scale_change(scales.values()), n_tokens)
    if not abs(report.loss_change) <= _MAX_LOSS_CHANGE:
        shutil.rmtree(partial)
        raise CheckFailed(
            "Quantising damaged the model; nothing was kept",
            found=f"loss {before:.4f} before, {after:.4f} after",
            remedy="Give more calibration text, or quantise on another machine.",
        )
    partial.rename(out)
    return report


def _run_autoawq(base: Path, out: Path, blocks: list[list[int]]) -> dict[str, Tensor]:
    try:
        from awq import AutoAWQForCausalLM
        from awq.quantize.quantizer import AwqQuantizer
    except ImportError as error:
        raise PrerequisiteError(
            "AutoAWQ is not installed",
            found=str(error)[:120],
            remedy="Run `pip install --no-build-isolation autoawq==0.2.9`.",
        ) from error
    from safetensors.torch import save_file
    from transformers import PreTrainedTokenizerFast

    scales: dict[str, Tensor] = {}

    class Quantizer(AwqQuantizer):  # type: ignore[misc]  # AutoAWQ has no types
        def _compute_best_scale(self, x: Any, w_mean: Any, x_mean: Any, inspected: Any, *rest: Any) -> Any:
            with _state_dict_copied(inspected):
                return super()._compute_best_scale(x, w_mean, x_mean, inspected, *rest)

        def _search_best_scale(self, module: Any, **layer: Any) -> Any:
            found = super()._search_best_scale(module, **layer)
            index = next(i for i, known in enumerate(self.modules) if known is module)
            source, targets, values = found
            scales[f"layers.{index}.{source}>{','.join(targets)}"] = values.float().clone()
            return found

    with redirect_stdout(sys.stderr):  # stdout is for results
        model = AutoAWQForCausalLM.from_pretrained(str(base), safetensors=True, device_map=None, torch_dtype="float16")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base))
        model.quantize(
            tokenizer,
            quant_config={"zero_point": True, "q_group_size": GROUP_SIZE, "w_bit": 4, "version": "GEMM"},
            calib_data=blocks,
            max_calib_samples=len(blocks),
            max_calib_seq_len=_BLOCK,
            quantizer_cls=Quantizer,
        )
        model.save_quantized(str(out), safetensors=True)
        tokenizer.save_pretrained(str(out))
    (out / SCALES_FILE).parent.mkdir()
    save_file(scales, out / SCALES_FILE)
    return scales


@contextmanager
def _state_dict_copied(module: Any) -> Iterator[None]:
    """Let ``state_dict()`` give copies.

    AutoAWQ 0.2.9 keeps the weights it will restore after each trial scale as ``v.cpu()``, which on a CPU is the live tensor
    itself: every trial then stays in the weights.
    """
    plain: Callable[[], dict[str, Any]] = module.state_dict
    module.state_dict = lambda: {name: value.clone() for name, value in plain().items()}
    try:
        yield
    finally:
        del module.state_dict


def _plain_model(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    return model.eval()


def _dequantized_model(base: Path, awq: Path) -> Any:
    model = _plain_model(base)
    model.load_state_dict(dequantized_state(awq), strict=False)
    return model


def _loss(model: Any, blocks: Sequence[Sequence[int]]) -> float:
    """Return the mean cross-entropy of the next token over all prompts."""
    import torch
    from torch.nn import functional as F

    total, count = 0.0, 0
    with torch.inference_mode():
        for row in blocks:
            ids = torch.tensor([row])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(row) - 1
    return total / count
