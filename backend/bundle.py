"""A bundle: where base model, adapter, heads, schemas and evaluation set are, and which runtimes there are."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backend.bounded_read import read_text
from backend.bundle_file import BundleFile, RuntimeEntry, read_bundle_file
from backend.errors import BackendError, BundleError, InputError
from backend.manifest import check_manifest
from backend.probe import Probe
from backend.prompt import PromptBuilder, load_tokenizer
from backend.quarantine import is_known, require_sound
from backend.roots import VARIABLE, outside
from backend.runtimes.base import Engine, RuntimeSpec

DEMO = Path(__file__).resolve().parent.parent / "demo" / "bundle"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_FOLDERS = ("base", "adapter", "awq", "awq_adapter")
_FILES = ("heads", "schemas", "dataset", "examples")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle with its paths resolved; nothing is loaded yet."""

    folder: Path
    base: str  # directory or hub id
    adapter: str | None
    heads: Path
    schemas: Path
    dataset: Path | None
    examples: Path | None
    awq: str | None
    awq_adapter: str | None  # the adapter rescaled for awq
    max_tokens: int  # longest prompt, in tokens
    runtimes: tuple[RuntimeSpec, ...]

    def runtime(self, name: str) -> RuntimeSpec:
        """Find a runtime by name; raises `InputError` listing the names there are."""
        for spec in self.runtimes:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self.runtimes)
        raise InputError("Unknown runtime", found=name, remedy=f"Choose one of: {known}.")

    def files(self) -> list[Path]:
        """Return the files that it uses from its own folder, `bundle.toml` among them."""
        recordings = [Path(spec.recording) for spec in self.runtimes if spec.recording]
        single = [self.folder / "bundle.toml", self.heads, self.schemas, self.dataset, self.examples, *recordings]
        models = [Path(model) for model in (self.base, self.adapter, self.awq, self.awq_adapter) if model]
        inside = [path for path in (*single, *models) if path is not None and _is_inside(path, self.folder)]
        found = [file for path in inside for file in (path.rglob("*") if path.is_dir() else [path])]
        return list(dict.fromkeys(file for file in found if file.is_file()))

    def load_probe(self) -> Probe:
        """Load heads and tokenizer, examined in a process of their own before; raises `BundleError` for a bad file."""
        if is_known(self.base, self.heads):
            return self._load_probe()
        with ThreadPoolExecutor(max_workers=1) as side:
            examined = side.submit(require_sound, self.base, self.heads)
            import transformers.models.auto  # noqa: F401  # takes seconds, and the other process as long

            examined.result()
        return self._load_probe()

    def _load_probe(self) -> Probe:
        builder = PromptBuilder(load_tokenizer(self.base), max_tokens=self.max_tokens)
        return Probe.load(self.heads, builder=builder)


def load_bundle(folder: Path, *, may_lack: Collection[str] = (), sealed: bool = True) -> Bundle:
    """Read `bundle.toml` of a folder, and compare its files with its manifest where there is one.

    Args:
        folder: the folder.
        may_lack: keys of `bundle.toml` whose folder the caller is about to make.
        sealed: whether to look at the manifest.

    Raises:
        BundleError: if the file is missing, is not TOML, holds wrong keys or names what is not there, or files changed.
    """
    bundle, problems = read_bundle(folder, may_lack=may_lack)
    if bundle is not None and sealed and not problems:
        problems = check_manifest(folder, bundle.files())
    if bundle is None or len(problems) == 1:
        raise problems[0]
    if problems:
        raise BundleError(
            f"The bundle has {len(problems)} problems",
            found="; ".join(f"{problem.what}: {problem.found}" for problem in problems)[:600],
            remedy="`python -m backend bundle verify` tells what to do about each.",
        )
    return bundle


def read_bundle(folder: Path, *, may_lack: Collection[str] = ()) -> tuple[Bundle | None, list[BackendError]]:
    """Return what can be made of `bundle.toml` and everything that is wrong with it; None where it cannot be read."""
    content, problems = read_bundle_file(folder)
    if content is None:
        return None, problems
    for key in _FILES:
        name = getattr(content, key)
        if name is not None and not (folder / name).is_file():
            problems.append(_missing("file", key, name))
    for key in _FOLDERS:
        name = getattr(content, key)
        if name is not None and key not in may_lack and not _is_there(folder, name):
            problems.append(_missing("folder", key, name))
    problems += _strays(folder, content)
    runtimes = []
    for entry in content.runtimes():
        if entry.checkpoint != "awq" or content.awq is not None:
            runtimes.append(_spec(folder, content, entry))
        elif "awq" not in may_lack:
            problems.append(_no_awq(entry.name))
    bundle = Bundle(
        folder=folder,
        base=_model(folder, content.base) or "",
        adapter=_model(folder, content.adapter),
        heads=folder / content.heads,
        schemas=folder / content.schemas,
        dataset=folder / content.dataset if content.dataset else None,
        examples=folder / chosen if (chosen := content.examples or content.dataset) else None,
        awq=_model(folder, content.awq),
        awq_adapter=_model(folder, content.awq_adapter),
        max_tokens=content.prompt.max_tokens,
        runtimes=tuple(runtimes),
    )
    return bundle, problems


def _strays(folder: Path, content: BundleFile) -> list[BackendError]:
    """Name every key that leads out of the folders that a bundle may use."""
    found: list[BackendError] = []
    for key in (*_FILES, *_FOLDERS):
        name = getattr(content, key)
        if name is None or (key in _FOLDERS and not (folder / name).is_dir()):
            continue
        target = outside(folder / name, folder)
        if target is not None:
            found.append(
                BundleError(
                    "A path leads out of the bundle",
                    found=f"{key}: {name} is {target}",
                    remedy=f"Copy it into the bundle, or list its folder in the environment variable {VARIABLE}.",
                )
            )
    return found


def _spec(folder: Path, content: BundleFile, entry: RuntimeEntry) -> RuntimeSpec:
    awq = entry.checkpoint == "awq"
    rescaled = awq and entry.adapter == "fitting" and content.awq_adapter is not None
    adapter = _model(folder, content.awq_adapter if rescaled else content.adapter)
    return RuntimeSpec(
        name=entry.name,
        engine=Engine(entry.engine),
        model=_model(folder, content.awq if awq else content.base) or "",
        dtype=entry.dtype,
        adapter=adapter,
        urls=entry.urls,
        device=entry.device,
        max_tokens=content.prompt.max_tokens,
        remote_model=entry.remote_model,
        remote_lora=entry.remote_lora,
        recording=str(folder / entry.recording) if entry.recording else "",
        max_lora_rank=_rank(adapter),
        cuda_graphs=entry.cuda_graphs,
    )


def _rank(adapter: str | None) -> int:
    """Return the smallest rank limit vLLM knows that holds the adapter; a larger one only costs time."""
    try:
        rank = int(json.loads(read_text(Path(adapter or "") / "adapter_config.json"))["r"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 16  # no adapter, or one that loading it will complain about
    return next((limit for limit in (1, 8, 16, 32, 64, 128, 256, 320) if limit >= rank), 512)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts


def _is_hub_id(folder: Path, name: str) -> bool:
    """Tell a hub id from a path that leads nowhere: a path may have any number of slashes, or begin in a folder."""
    return _HUB_ID.match(name) is not None and not (folder / name.split("/")[0]).exists()


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or _is_hub_id(folder, name)


def _model(folder: Path, name: str | None) -> str | None:
    """Return the folder as a path, or the hub id as it is; a path that leads nowhere stays one."""
    if name is None or (not (folder / name).is_dir() and _is_hub_id(folder, name)):
        return name
    return str(folder / name)


def _missing(kind: str, key: str, name: str) -> BundleError:
    hub = " A hub id has the form owner/name." if kind == "folder" else ""
    return BundleError(
        f"A {kind} of the bundle is missing",
        found=f"{key}: no {name}",
        remedy=f"Add it, or correct or remove the key.{hub}",
    )


def _no_awq(runtime: str) -> BundleError:
    return BundleError(
        "bundle.toml has no AWQ checkpoint",
        found=f"runtime {runtime} asks for it",
        remedy="Make one with `python -m backend quantize`, or take the runtime out.",
    )
