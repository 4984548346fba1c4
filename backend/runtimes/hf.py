"""HuggingFace transformers and PEFT in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.awq.dequantize import dequantized_state, quantization_config
from backend.errors import BundleError, InputError, PrerequisiteError
from backend.foreign_code import refuse_foreign_code
from backend.norms import normalize
from backend.runtimes.adapter_edit import AdapterEdit, adapter_groups, edited
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec
from backend.runtimes.batching import token_budget_batches
from backend.weight_files import require_adapter_weights, require_model_weights

if TYPE_CHECKING:
    from torch import Tensor

# Padded tokens in one forward pass. A GPU wants many; on a CPU the activations of a batch should stay in its cache:
# with the demo in BF16, LoRA on, 4096 took twice the CPU time of 400.
TOKEN_BUDGET = {"cuda": 8192, "cpu": 512}
# an adapter saved over the decoder stack alone lacks the inner "model."; vLLM takes both, so this must
_KEY_MAPPING = {r"^layers\.": "model.layers."}


class HFRuntime(Runtime):
    """A causal LM whose decoder stack is called without the vocabulary head."""

    def __init__(self, spec: RuntimeSpec, info: RuntimeInfo, model: Any, pad_id: int) -> None:
        super().__init__(spec, info)
        self._model = model
        self._pad_id = pad_id
        # disable_adapter() changes the modules themselves, so calls with different toggles take turns.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, spec: RuntimeSpec) -> HFRuntime:
        """Load base model and adapter.

        Raises:
            BundleError: if either cannot be loaded or the adapter does not fit.
            PrerequisiteError: if the device asked for is not there.
        """
        import peft
        import torch
        import transformers

        device = _device(spec.device)
        model = _load_model(spec).to(device).eval()
        config = model.config.get_text_config()
        info = RuntimeInfo(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            dtype=spec.dtype,
            d_model=int(config.hidden_size),
            max_tokens=min(spec.max_tokens, int(getattr(config, "max_position_embeddings", spec.max_tokens))),
            has_adapter=spec.adapter is not None,
            versions=(
                ("torch", torch.__version__),
                ("transformers", transformers.__version__),
                ("peft", peft.__version__),
            ),
        )
        return cls(spec, info, model, pad_id=int(config.pad_token_id or 0))

    def _forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        import torch

        states: list[Tensor | None] = [None] * len(ids)
        budget = TOKEN_BUDGET.get(self._model.device.type, TOKEN_BUDGET["cpu"])
        with torch.inference_mode():
            for batch in token_budget_batches([len(row) for row in ids], budget=budget):
                packed = self._batch([ids[i] for i in batch], lora=options.lora)
                used = normalize(packed) if options.normalize else packed
                rows = torch.split(used, [len(ids[i]) for i in batch])
                for i, row in zip(batch, rows, strict=True):
                    states[i] = row
        return [row for row in states if row is not None]

    def adapter_groups(self) -> tuple[str, ...]:
        """Return the groups of modules that an `AdapterEdit` can leave without adapter; none without an adapter."""
        return adapter_groups(self._model) if self.info.has_adapter else ()

    def forward_edited(self, ids: Sequence[Sequence[int]], edit: AdapterEdit) -> list[Tensor]:
        """Compute raw states, ``[n_tokens, d_model]`` a prompt, with a changed adapter, as a faulty deployment would.

        Raises:
            InputError: no adapter, or ids as `forward` refuses them.
        """
        import torch

        if not self.info.has_adapter:
            raise InputError(f"{self.spec.name} has no adapter to change", remedy="Choose a runtime with an adapter.")
        self._check_ids(ids)
        with torch.inference_mode():
            return list(torch.split(self._batch(ids, lora=True, edit=edit), [len(row) for row in ids]))

    def _batch(self, ids: Sequence[Sequence[int]], *, lora: bool, edit: AdapterEdit | None = None) -> Tensor:
        """States of all prompts, one after the other: ``[total tokens, d_model]``, on the CPU."""
        import torch

        width = max(len(row) for row in ids)
        padded = torch.tensor([[*row, *[self._pad_id] * (width - len(row))] for row in ids])
        # Padding stands on the right and attention is causal: no real token sees it, so no mask is needed.
        with self._lock:
            stack = self._model.get_base_model() if self.info.has_adapter else self._model
            off = self.info.has_adapter and not lora
            with self._model.disable_adapter() if off else edited(self._model, edit) if edit else nullcontext():
                output = stack.base_model(input_ids=padded.to(self._model.device), use_cache=False)
        hidden = output.last_hidden_state
        # packed where they are: only real tokens cross to the CPU, and no kept row keeps padding alive
        return torch.cat([hidden[i, : len(row)] for i, row in enumerate(ids)]).cpu()

    def _close(self) -> None:
        import gc

        import torch

        with self._lock:
            self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _device(name: str) -> Any:
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device(name if name != "auto" else ("cuda" if cuda else "cpu"))
    if device.type == "cuda" and not cuda:
        raise PrerequisiteError("No CUDA device for this runtime", found=name, remedy='Set device = "auto" or "cpu".')
    return device


def _load_model(spec: RuntimeSpec) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    refuse_foreign_code(spec.model)
    if Path(spec.model).is_dir():
        require_model_weights(Path(spec.model))
    if quantization_config(spec.model) is not None:
        return _add_adapter(_dequantized(spec), spec.adapter)
    model: Any
    report: Any
    load: Any = AutoModelForCausalLM.from_pretrained  # typed as if it never returned the loading report
    try:
        model, report = load(
            spec.model,
            dtype=getattr(torch, spec.dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        # transformers raises OSError, ValueError, KeyError and more for one broken directory
        raise _load_error("The base model", spec.model, error) from error
    if report["missing_keys"]:
        # transformers would fill these with random numbers and only warn
        raise BundleError(
            "The base model's weights are incomplete",
            found=f"{len(report['missing_keys'])} tensors missing, such as {sorted(report['missing_keys'])[0]}",
            remedy="Copy the checkpoint again; config.json and the weights must belong together.",
        )
    return _add_adapter(model, spec.adapter)


def _dequantized(spec: RuntimeSpec) -> Any:
    """A 4-bit checkpoint as a plain model: what its 4-bit weights mean, without any kernel."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(spec.model, trust_remote_code=False)
    del config.quantization_config
    make: Any = AutoModelForCausalLM.from_config  # untyped upstream
    model = make(config, dtype=getattr(torch, spec.dtype))
    found = model.load_state_dict(dequantized_state(Path(spec.model)), strict=False)
    missing = [name for name in found.missing_keys if name != "lm_head.weight"]  # hidden states do not need it
    if missing or found.unexpected_keys:
        raise BundleError(
            "The quantised checkpoint does not fit its config.json",
            found=", ".join([*missing, *found.unexpected_keys][:3]),
            remedy="Quantise the base again.",
        )
    return model


def _add_adapter(model: Any, adapter: str | None) -> Any:
    import warnings

    if adapter is None:
        return model

    from peft import PeftModel

    refuse_foreign_code(adapter)
    require_adapter_weights(adapter)
    try:
        with warnings.catch_warnings():
            # PEFT only warns when adapter keys are missing and leaves random ones in place
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            return PeftModel.from_pretrained(model, adapter, is_trainable=False, key_mapping=_KEY_MAPPING)
    except Exception as error:
        raise _load_error("The adapter", adapter, error) from error


def _load_error(what: str, source: str, error: Exception) -> BundleError:
    return BundleError(
        f"{what} cannot be loaded",
        found=f"{Path(source).name}: {str(error).split(chr(10))[0][:200]}",
        remedy="Run `python -m backend bundle verify` for the full list.",
    )
