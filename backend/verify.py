"""Every problem of a bundle at once: file, what is wrong, found, expected, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from backend.adapter import inspect_adapter
from backend.bundle import Bundle, load_bundle
from backend.check_files import file_checks
from backend.dataset import Skipped, read_examples
from backend.errors import BackendError, BundleError, InputError
from backend.heads import load_heads
from backend.prompt import PromptBuilder, load_tokenizer
from backend.schema import FunctionSchema, load_schemas
from backend.tensors import read_tensors, tensor_shapes

T = TypeVar("T")
_MANY = 5  # problems of one kind that are told one by one


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend."""

    file: str
    what: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        expected = f", expected {self.expected}" if self.expected else ""
        return f"{self.file}: {self.what} (found {self.found or 'nothing'}{expected}). {self.remedy}"


def verify_bundle(folder: Path) -> tuple[Problem, ...]:
    """Check everything that can be checked without running a model.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError("No such folder", found=str(folder), remedy="Name a folder that holds a bundle.toml.")
    try:
        bundle = load_bundle(folder)
    except BackendError as error:
        return (_problem("bundle.toml", error),)
    found: list[Problem] = []
    _collect(found, "base", lambda: _check_base(bundle))
    _collect(found, "base", lambda: _check_tokenizer(bundle))
    found += _check_heads(bundle, _hidden_size(bundle))
    found += _check_adapters(bundle)
    schemas = _collect(found, bundle.schemas.name, lambda: load_schemas(bundle.schemas))
    if schemas is not None and bundle.dataset is not None:
        found += _check_dataset(bundle.dataset, schemas)
    return tuple(found)


def _collect(found: list[Problem], file: str, check: Callable[[], T]) -> T | None:
    try:
        return check()
    except BackendError as error:
        found.append(_problem(file, error))
        return None


def _problem(file: str, error: BackendError, *, expected: str = "") -> Problem:
    return Problem(file, error.what, error.found, expected, error.remedy)


def _hidden_size(bundle: Bundle) -> int | None:
    """Return the base's hidden size; None where it is not known here: a hub id, or a broken config.json."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(bundle.base, trust_remote_code=False, local_files_only=True)
        return int(config.get_text_config().hidden_size)
    except Exception:  # as in _check_base, which says what is wrong
        return None


def _check_base(bundle: Bundle) -> None:
    folder = Path(bundle.base)
    if not folder.is_dir():
        return  # a hub id, whose files are not here
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(bundle.base, trust_remote_code=False)
        make = AutoModelForCausalLM.from_config
        with torch.device("meta"):
            model = make(config)  # type: ignore[no-untyped-call]
    except Exception as error:
        # transformers raises OSError, ValueError, KeyError and more for one broken config.json
        raise BundleError("config.json is no model", found=str(error)[:120], remedy="Copy the base again.") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if getattr(config, "tie_word_embeddings", False):
        wanted.pop("lm_head.weight", None)
    shapes = tensor_shapes(folder)
    wrong = [name for name, shape in wanted.items() if shapes.get(name) != shape]
    if wrong:
        raise BundleError(
            "Weights do not fit config.json",
            found=f"{len(wrong)} tensors missing or of another shape, such as {wrong[0]}: {shapes.get(wrong[0])}",
            remedy="Copy the base again; config.json and the weights must belong together.",
        )
    _check_finite(folder)


def _check_finite(folder: Path) -> None:
    for name, tensor in read_tensors(folder):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BundleError("Weights hold NaN or infinity", found=name, remedy=f"Copy {folder.name} again.")


def _check_tokenizer(bundle: Bundle) -> None:
    tokenizer = load_tokenizer(bundle.base)
    PromptBuilder(tokenizer, max_tokens=bundle.max_tokens)
    folder = Path(bundle.base)
    shape = tensor_shapes(folder).get("model.embed_tokens.weight") if folder.is_dir() else None
    if shape is not None and len(tokenizer) > shape[0]:
        raise BundleError(
            "The tokenizer knows more tokens than the model",
            found=f"{len(tokenizer)} tokens, {shape[0]} embeddings",
            remedy="Use the tokenizer that the base was trained with.",
        )


def _check_heads(bundle: Bundle, width: int | None) -> Iterator[Problem]:
    name = bundle.heads.name
    try:
        d = load_heads(bundle.heads).d_model
    except BackendError as error:
        yield _problem(name, error)
        return
    if width is not None and d != width:
        yield Problem(name, "Heads of another model", str(d), f"the base's hidden size {width}", "Use its own heads.")


def _check_adapters(bundle: Bundle) -> Iterator[Problem]:
    base = Path(bundle.base)
    if not base.is_dir():
        return
    for adapter in dict.fromkeys(spec.adapter for spec in bundle.runtimes if spec.adapter is not None):
        name = Path(adapter).name
        if not Path(adapter).is_dir():
            continue
        try:
            report = inspect_adapter(Path(adapter), base)
        except BackendError as error:
            yield _problem(name, error)
            continue
        remedy = "Save the adapter from the PeftModel itself; vLLM ignores such tensors without a word."
        for what, names in (("matches no module", report.unmatched), ("has no adapter weights", report.missing)):
            for key in names[:_MANY]:
                yield Problem(name, f"{key} {what}", key, "base_model.model.model.layers...", remedy)
            if len(names) > _MANY:
                yield Problem(name, f"and {len(names) - _MANY} more like this", str(len(names)), "0", remedy)
        for text in report.misshapen:
            yield Problem(name, "A tensor does not fit", text, "rank and widths of adapter_config.json and base", remedy)
        for text in report.unsupported:
            yield Problem(name, "A setting that vLLM rejects", text, "plain LoRA", "Train without it.")
        yield from _check_adapter_values(Path(adapter), report.alpha)
    for spec in {spec.model: spec for spec in bundle.runtimes if spec.model != bundle.base}.values():
        for check in file_checks(spec, bundle.base):
            if check.name == "same source model" and not check.passed:
                yield Problem(Path(spec.model).name, check.name, check.observed, check.expected, check.remedy)


def _check_adapter_values(adapter: Path, alpha: float) -> Iterator[Problem]:
    """Find what loads everywhere and still leaves the base as it is, or fills its states with NaN."""
    name, retrain = adapter.name, "Export the trained adapter again."
    if not alpha:
        yield Problem(name, "The adapter is scaled by nothing", "lora_alpha 0", "lora_alpha as in training", retrain)
    found: list[Problem] = []
    _collect(found, name, lambda: _check_finite(adapter))
    yield from found
    sides = [bool(tensor.any()) for _, tensor in read_tensors(adapter, lambda key: ".lora_B" in key)]
    if sides and not any(sides):
        yield Problem(name, "The adapter was never trained", "all-zero lora_B", "values other than 0", retrain)


def _check_dataset(path: Path, schemas: dict[str, FunctionSchema]) -> Iterator[Problem]:
    skipped = Skipped()
    try:
        for _ in read_examples(path, schemas, skipped=skipped):
            pass
    except InputError as error:
        yield _problem(path.name, error)
    for reason in skipped.reasons[:_MANY]:
        yield Problem(path.name, reason.what, reason.found, "rows as in the README", reason.remedy)
    if skipped.count > _MANY:
        yield Problem(path.name, f"and {skipped.count - _MANY} more bad rows", str(skipped.count), "0", "Correct them.")
