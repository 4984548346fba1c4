"""Files of a bundle are first read by a process of their own, with limits on memory and time.

Bundles come from strangers. A damaged or hostile tokenizer, header or archive may take all memory, run for ever, or end the
process that reads it; then one process ends, and the app or command says which file it was. What was examined is remembered
by the files' stamps, so an unchanged bundle is not read twice.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from backend import errors
from backend.errors import BackendError, BundleError
from backend.file_stamps import note, recall, stamp

MEMORY_BYTES = 4 * 2**30  # more than the process has already; the largest tokenizer.json takes well under one
SECONDS = 20  # of processor time, and what reading the files takes
_BYTES_PER_S = 50 * 2**20
_VERSION = "1"  # of what is examined
# what verifying needs of transformers, which a fork of the process would else import each time anew
_FOR_VERIFY = ["backend.verify", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"]
_FOR_VERIFY += ["transformers.modeling_utils", "transformers.models.llama.modeling_llama"]
_ROOT = Path(__file__).resolve().parent.parent
_QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_QUIET |= {"OPENBLAS_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def require_sound(*sources: str | Path | None) -> None:
    """Have models, adapters and heads examined that are not known yet; hub ids are left to their loader.

    Raises:
        BundleError: for the first file that cannot be used, with its name.
    """
    for path in dict.fromkeys(Path(source) for source in sources if source is not None):
        key = _key(path)
        if key is None or recall(key) is not None:
            continue
        imports = ["torch"] if path.suffix == ".pt" else ["backend.examination"]
        answer = _ask({"task": "examine", "paths": [str(path.resolve())], "imports": imports}, _seconds([path]))
        if "error" in answer:
            said = answer["error"]
            raise getattr(errors, said["kind"])(said["what"], found=said["found"], remedy=said["remedy"])
        if "died" in answer:
            raise died(answer, path)
        note(key, "sound")


def is_known(*sources: str | Path | None) -> bool:
    """Tell whether `require_sound` has nothing to do."""
    keys = [_key(Path(source)) for source in sources if source is not None]
    return all(key is None or recall(key) is not None for key in keys)


def ask_verify(folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Have a whole bundle verified; return ``problems``, and how it ``died`` while ``reading`` what, if so."""
    return _ask({"task": "verify", "paths": [str(folder.resolve())], "imports": _FOR_VERIFY}, 2 * _seconds(files))


def died(answer: dict[str, Any], path: Path) -> BundleError:
    """Return the error that names what the process was reading when it ended."""
    return BundleError(
        f"{answer['reading'] or path.name} is not safe to load",
        found=f"the process that read it was ended: {answer['died']}",
        remedy="Copy the bundle again from where it was trained; do not load this file elsewhere.",
    )


def _key(path: Path) -> str | None:
    """Return the stamp of a file or folder with what reads it; None for what is not there."""
    try:
        files = [found for found in path.iterdir() if found.is_file()] if path.is_dir() else [path]
        return "sound " + stamp(files, *_versions())
    except OSError:
        return None  # a hub id, or a path whose loader will say that it is missing


@lru_cache
def _versions() -> tuple[str, ...]:
    found = [_VERSION]
    for name in ("tokenizers", "torch"):
        with suppress(metadata.PackageNotFoundError):
            found.append(metadata.version(name))
    return tuple(found)


def _seconds(paths: Sequence[Path]) -> int:
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return SECONDS + sum(file.stat().st_size for file in files) // _BYTES_PER_S


class _Child:
    """The process, started when it is needed and again when it went away; one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # it may have gone just now for want of questions
                process = self._running()
                with suppress(BrokenPipeError):
                    assert process.stdin is not None and process.stdout is not None
                    process.stdin.write(line)
                    process.stdin.flush()
                    answer = process.stdout.readline()
                    if answer.endswith(b"\n"):
                        return dict(json.loads(answer))
                self._end()
        raise BackendError(
            "The process that examines bundles ended",
            found=f"exit code {process.returncode}",
            remedy="Free some memory and try again.",
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backend.quarantine_child"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _QUIET,
            )
            self._owner = os.getpid()
            atexit.register(self.close)
        return self._process

    def _end(self) -> None:
        """Close the pipe and collect the process, if it is this process's own."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End it with the program."""
        with self._lock:
            self._end()


_child = _Child()


def _ask(request: dict[str, Any], seconds: int) -> dict[str, Any]:
    settings = {name: value for name, value in os.environ.items() if name.startswith("PROBE_PARITY_")}
    return _child.ask(request | {"seconds": seconds, "memory": MEMORY_BYTES, "environment": settings})
