"""The one file that runs AutoAWQ: here, or in an environment of its own.

There it is ``python -m backend.awq.autoawq BASE OUT BLOCKS``.

It imports nothing of this project but names, so that the other environment needs no more than AutoAWQ does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.awq.names import BLOCK_TOKENS, GROUP_SIZE, SCALES_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def is_installed() -> bool:
    """Tell whether AutoAWQ can be imported here."""
    try:
        import awq  # noqa: F401
    except Exception:  # it fails in its own ways beside another transformers
        return False
    return True


def quantize(base: Path, out: Path, blocks: list[list[int]]) -> None:
    """Write the 4-bit checkpoint of ``base`` to ``out``, with the channel scales beside it.

    Args:
        base: directory of the plain checkpoint.
        out: directory to make.
        blocks: token ids to calibrate with.
    """
    from awq import AutoAWQForCausalLM
    from awq.quantize.quantizer import AwqQuantizer
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
        # AutoAWQ trusts code of the checkpoint unless told not to
        trusted: dict[str, Any] = {"trust_remote_code": False, "safetensors": True, "torch_dtype": "float16"}
        model = AutoAWQForCausalLM.from_pretrained(str(base), device_map=None, **trusted)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base), trust_remote_code=False)
        model.quantize(
            tokenizer,
            quant_config={"zero_point": True, "q_group_size": GROUP_SIZE, "w_bit": 4, "version": "GEMM"},
            calib_data=blocks,
            max_calib_samples=len(blocks),
            max_calib_seq_len=BLOCK_TOKENS,
            quantizer_cls=Quantizer,
        )
        model.save_quantized(str(out), safetensors=True)
        tokenizer.save_pretrained(str(out))
    (out / SCALES_FILE).parent.mkdir()
    save_file(scales, out / SCALES_FILE)


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


if __name__ == "__main__":
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text(encoding="utf-8")))
