"""An environment of its own for AutoAWQ, where it cannot be imported beside everything else."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from backend.errors import PrerequisiteError

_ROOT = Path(__file__).resolve().parent.parent.parent
# what AutoAWQ loads models with; the pins are those of this project
_SHARED = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy")


def autoawq_python() -> Path:
    """Return the interpreter of the environment, making it first if need be, which takes minutes and says so.

    Raises:
        PrerequisiteError: if it cannot be made; the message quotes pip.
    """
    shared = [line for line in _pins("requirements.txt") if re.split(r"[=<>]", line)[0] in _SHARED]
    own = _pins("requirements-awq.txt")
    key = hashlib.sha256("\n".join([sys.version, *shared, *own]).encode()).hexdigest()[:12]
    folder = _cache() / f"autoawq-{key}"
    python = folder / "bin" / "python"
    if (folder / "ready").is_file():
        return python
    _say(f"AutoAWQ cannot be imported here: making an environment for it in {folder} (a few minutes, once).")
    venv.create(folder, with_pip=True, clear=True)
    torch = [pin for pin in shared if pin.startswith("torch=")]
    # torch first, as AutoAWQ's build looks for the one that is installed
    for step in (["wheel", "setuptools", *torch], shared, ["--no-build-isolation", *own]):
        _say(f"  pip install {' '.join(step)}")
        _pip(python, step)
    (folder / "ready").touch()
    return python


def _pins(name: str) -> list[str]:
    lines = (_ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probe-parity"


def _pip(python: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise PrerequisiteError(
            "The environment for AutoAWQ cannot be made",
            found=(done.stdout.strip().splitlines() or ["pip said nothing"])[-1][:200],
            remedy="Check the package index, or quantise on another machine and copy the folder.",
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
