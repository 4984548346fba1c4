"""A 4-bit AWQ checkpoint of a base model, made with AutoAWQ and measured before it is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.awq import autoawq
from backend.awq.dequantize import dequantized_state
from backend.awq.environment import autoawq_python
from backend.awq.names import BLOCK_TOKENS, GROUP_SIZE, SCALES_FILE
from backend.awq.rescale import max_scale_change
from backend.errors import BundleError, CheckFailed, InputError, PrerequisiteError
from backend.foreign_code import refuse_foreign_code
from backend.weight_files import require_model_weights

if TYPE_CHECKING:
    from torch import Tensor

_ROOT = Path(__file__).resolve().parent.parent.parent
_MAX_LOSS_CHANGE = 0.05  # relative; corrupted weights moved it by 8 % and cost 22 points of exact match


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
        PrerequisiteError: AutoAWQ is not installed, and no environment can be made for it.
        InputError: ``out`` exists, or there is too little calibration text.
        CheckFailed: the loss moved by more than 5 %; nothing is kept.
    """
    if out.exists():
        raise InputError("The output folder exists", found=str(out), remedy="Remove it, or name another with --out.")
    blocks = [list(row) for row in prompts]
    n_tokens = sum(map(len, blocks))
    if n_tokens < 2 * BLOCK_TOKENS:
        raise InputError(
            "Too little calibration text", found=f"{n_tokens} tokens", remedy=f"Give {2 * BLOCK_TOKENS} or more."
        )
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
    """Quantise here if AutoAWQ is here, else in its own environment; return the channel scales it folded."""
    from safetensors.torch import load_file

    if autoawq.is_installed():
        try:
            autoawq.quantize(base, out, blocks)
        except Exception as error:
            # AutoAWQ raises whatever its loops over modules and files come to
            raise InputError(
                "AutoAWQ cannot quantise this base",
                found=f"{type(error).__name__}: {error}"[:200],
                remedy=f"It needs an architecture it knows and layers whose inputs divide by {GROUP_SIZE}.",
            ) from error
    else:
        _run_elsewhere(autoawq_python(), base, out, blocks)
    return load_file(out / SCALES_FILE)


def _run_elsewhere(python: Path, base: Path, out: Path, blocks: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "blocks.json"
        data.write_text(json.dumps(blocks), encoding="utf-8")
        command = [str(part) for part in (python, "-m", "backend.awq.autoawq", base.resolve(), out.resolve(), data)]
        done = subprocess.run(command, cwd=_ROOT, stdout=sys.stderr, check=False)
    if done.returncode:
        raise PrerequisiteError(
            "AutoAWQ failed in its own environment",
            found=f"exit code {done.returncode}; its output is above",
            remedy="It needs an architecture it knows; otherwise remove the environment and try again.",
        )


def _plain_model(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    refuse_foreign_code(str(base))
    require_model_weights(base)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(base), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:
        # transformers raises OSError, ValueError, KeyError and more for one broken directory
        raise BundleError(
            "The base model cannot be loaded",
            found=str(error).split("\n")[0][:200],
            remedy="Run `python -m backend bundle verify` for the full list.",
        ) from error
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
