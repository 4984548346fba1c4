"""Every problem of a bundle at once: file, what is wrong, found, expected, what to do. Nothing here asks the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from backend.bundle import Bundle, read_bundle
from backend.dataset import Skipped, read_examples
from backend.errors import BackendError, InputError
from backend.examination import tokenize
from backend.foreign_code import foreign_code
from backend.heads import load_heads
from backend.manifest import check_manifest
from backend.prompt import PromptBuilder, load_tokenizer
from backend.quarantine import ask_verify, died
from backend.schema import FunctionSchema, load_schemas
from backend.tensors import tensor_shapes
from backend.verify_weights import check_adapter, check_finite, check_fit, check_source, hidden_size
from backend.weight_files import require_model_weights

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
    """Check everything that can be checked without running a model, in a process of its own that a file may end.

    A part that cannot be read is one problem and keeps no other part from being checked, unless it ends that process.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise _no_folder(folder)
    answer = ask_verify(folder, [path for path in folder.rglob("*") if path.is_file()])
    found = [Problem(**problem) for problem in answer["problems"]]
    if "died" in answer:
        error = died(answer, folder)
        found.append(Problem(answer["reading"] or folder.name, error.what, error.found, "", error.remedy))
    return tuple(dict.fromkeys(found))


def find_problems(folder: Path, *, announce: Callable[[str], None] = lambda _: None) -> Iterator[Problem]:
    """Yield what `verify_bundle` returns, in this process; some of it twice.

    Args:
        folder: of the bundle.
        announce: told what is read next.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise _no_folder(folder)
    announce("bundle.toml")
    bundle, errors = read_bundle(folder)
    yield from (_problem("bundle.toml", error) for error in errors)
    if bundle is None:
        return
    announce("manifest.json")
    yield from (_problem("manifest.json", error) for error in check_manifest(folder, bundle.files(), again=True))
    if bundle.base:
        yield from _check_base(bundle, announce)
    if bundle.heads.is_file():
        announce(bundle.heads.name)
        yield from _check_heads(bundle, hidden_size(bundle.base) if bundle.base else None)
    announce("adapter")
    yield from _check_adapters(bundle)
    announce("awq")
    yield from _check_awq(bundle)
    announce("schemas and evaluation set")
    yield from _check_data(bundle)


def _no_folder(folder: Path) -> InputError:
    return InputError("No such folder", found=str(folder), remedy="Name a folder that holds a bundle.toml.")


def _try(found: list[Problem], file: str, check: Callable[[], T]) -> T | None:
    try:
        return check()
    except BackendError as error:
        found.append(_problem(file, error))
        return None


def _problem(file: str, error: BackendError) -> Problem:
    return Problem(file, error.what, error.found, "", error.remedy)


def _check_base(bundle: Bundle, announce: Callable[[str], None]) -> Iterator[Problem]:
    folder = Path(bundle.base)
    found: list[Problem] = []
    if not folder.is_dir():
        if folder.is_absolute():
            return  # told as a missing folder
        _try(found, "base", lambda: load_tokenizer(bundle.base, offline=True))
        for problem in found:
            yield replace(problem, what="A hub id whose files are not on this machine, so nothing of it was checked")
        return
    foreign = [_problem("base", error) for error in foreign_code(bundle.base, offline=True)]
    yield from foreign
    announce(f"weights of {folder.name}")
    _try(found, "base", lambda: require_model_weights(folder))
    _try(found, "base", lambda: check_finite(folder))
    if not foreign:  # reading the configuration is what would fetch it
        announce(f"{folder.name}/config.json")
        _try(found, "base", lambda: check_fit(folder))
        announce(f"{folder.name}/tokenizer.json")
        _try(found, "base", lambda: _check_tokenizer(bundle, folder))
    yield from found


def _check_tokenizer(bundle: Bundle, folder: Path) -> None:
    if (folder / "tokenizer.json").is_file():
        tokenize(folder / "tokenizer.json")
    tokenizer = load_tokenizer(bundle.base, offline=True)
    PromptBuilder(tokenizer, max_tokens=bundle.max_tokens)
    shape = tensor_shapes(folder).get("model.embed_tokens.weight")
    if shape is not None and len(tokenizer) > shape[0]:
        raise InputError(
            "The tokenizer knows more tokens than the model",
            found=f"{len(tokenizer)} tokens, {shape[0]} embeddings",
            remedy="Use the tokenizer that the base was trained with.",
        )


def _check_heads(bundle: Bundle, width: int | None) -> Iterator[Problem]:
    found: list[Problem] = []
    name = bundle.heads.name
    heads = _try(found, name, lambda: load_heads(bundle.heads))
    yield from found
    if heads is not None and width not in (None, heads.d_model):
        expected = f"the base's hidden size {width}"
        yield Problem(name, "Heads of another model", str(heads.d_model), expected, "Use its own heads.")


def _check_adapters(bundle: Bundle) -> Iterator[Problem]:
    base = Path(bundle.base)
    for path in _local([bundle.adapter, bundle.awq_adapter]):
        for what, texts, expected, remedy in check_adapter(path, base if base.is_dir() else None):
            for text in texts[:_MANY]:
                yield Problem(path.name, what, text, expected, remedy)
            if len(texts) > _MANY:
                yield Problem(path.name, f"{what}: and more like this", str(len(texts) - _MANY), "0", remedy)


def _check_awq(bundle: Bundle) -> Iterator[Problem]:
    for path in _local([bundle.awq]):
        yield from (_problem(path.name, error) for error in foreign_code(str(path), offline=True))
        found: list[Problem] = []
        if Path(bundle.base).is_dir():
            _try(found, path.name, lambda path=path: check_source(path, Path(bundle.base)))  # type: ignore[misc]
        _try(found, path.name, lambda path=path: require_model_weights(path))  # type: ignore[misc]
        _try(found, path.name, lambda path=path: check_finite(path))  # type: ignore[misc]
        yield from found


def _check_data(bundle: Bundle) -> Iterator[Problem]:
    found: list[Problem] = []
    schemas = None
    if bundle.schemas.is_file():
        schemas = _try(found, bundle.schemas.name, lambda: load_schemas(bundle.schemas))
    yield from found
    if schemas is not None:
        for path in dict.fromkeys((bundle.dataset, bundle.examples)):
            if path is not None and path.is_file():
                yield from _check_dataset(path, schemas)


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


def _local(models: Iterable[str | None]) -> list[Path]:
    """Return the folders that are there; hub ids are checked when they are loaded, missing folders are told already."""
    return [Path(model) for model in dict.fromkeys(models) if model is not None and Path(model).is_dir()]
