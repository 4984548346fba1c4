"""What can be said of checkpoint and adapter files without running them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backend.adapter import inspect_adapter
from backend.check_files import same_source
from backend.errors import BackendError, BundleError
from backend.foreign_code import foreign_code
from backend.safetensors_header import non_finite
from backend.tensors import read_tensors, tensor_shapes

# buffers that older checkpoints saved and that the model computes itself
_COMPUTED = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")


def hidden_size(base: str) -> int | None:
    """Return the base's hidden size; None where it is not known here: a hub id, or a broken config.json."""
    from transformers import AutoConfig

    if next(foreign_code(base, offline=True), None) is not None:
        return None
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        return int(config.get_text_config().hidden_size)
    except Exception:  # as in check_fit, which says what is wrong
        return None


def check_fit(folder: Path) -> None:
    """Compare names and shapes of the weights with the model that config.json describes.

    Raises:
        BundleError: if config.json is no model, or a tensor is missing, left over, or of another shape.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        make = AutoModelForCausalLM.from_config
        with torch.device("meta"):
            model = make(config)  # type: ignore[no-untyped-call]
    except Exception as error:
        # transformers raises OSError, ValueError, KeyError and more for one broken config.json
        raise BundleError("config.json is no model", found=str(error)[:120], remedy="Copy the base again.") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    shapes = tensor_shapes(folder)
    if getattr(config, "tie_word_embeddings", False) or "lm_head.weight" not in shapes:
        wanted.pop("lm_head.weight", None)  # hidden states do not need it
        shapes.pop("lm_head.weight", None)
    wrong = [name for name, shape in wanted.items() if shapes.get(name) != shape]
    wrong += [name for name in shapes if name not in wanted and not name.endswith(_COMPUTED)]
    if wrong:
        raise BundleError(
            "Weights do not fit config.json",
            found=f"{len(wrong)} tensors missing, left over or misshapen, such as {wrong[0]}: {shapes.get(wrong[0])}",
            remedy="Copy the base again; config.json and the weights must belong together.",
        )


def check_finite(folder: Path) -> None:
    """Raise `BundleError` for the first tensor of a folder that holds NaN or infinity."""
    for path in sorted(folder.glob("*.safetensors")):
        for name in non_finite(path):
            raise BundleError(
                "Weights hold NaN or infinity", found=f"{name} in {path.name}", remedy=f"Copy {folder.name} again."
            )


def check_source(quantized: Path, base: Path) -> None:
    """Raise `BundleError` if a quantised checkpoint was made from another model."""
    check = same_source(quantized, base)
    if not check.passed:
        raise BundleError(check.name, found=f"{check.observed}, expected {check.expected}", remedy=check.remedy)


def check_adapter(adapter: Path, base: Path | None) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """Yield ``(what, one text a case, expected, remedy)`` for each kind of problem; ``base`` None leaves modules out."""
    retrain = "Export the trained adapter again."
    for error in foreign_code(str(adapter), offline=True):
        yield error.what, (error.found,), "", error.remedy
    try:
        report = inspect_adapter(adapter, base)
    except BackendError as error:
        yield error.what, (error.found,), "", error.remedy
        return
    prefix = "base_model.model.model.layers..."
    binding = "Save the adapter from the PeftModel itself; vLLM ignores such tensors without a word."
    idle = () if report.alpha else ("lora_alpha 0",)
    kinds = [
        ("A tensor matches no module", report.unmatched, prefix, binding),
        ("A module has no adapter weights", report.missing, prefix, binding),
        ("A tensor does not fit", report.misshapen, "rank and widths of adapter_config.json and base", binding),
        ("A setting that vLLM rejects", report.unsupported, "plain LoRA", "Train without it."),
        ("The adapter is scaled by nothing", idle, "lora_alpha as in training", retrain),
    ]
    yield from (kind for kind in kinds if kind[1])
    try:
        check_finite(adapter)
        sides = [bool(tensor.any()) for _, tensor in read_tensors(adapter, lambda key: ".lora_B" in key)]
    except BackendError as error:
        yield error.what, (error.found,), "", error.remedy
        return
    if sides and not any(sides):
        yield "The adapter was never trained", ("all-zero lora_B",), "values other than 0", retrain
