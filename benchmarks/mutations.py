"""Bundles with one damaged file each through `bundle verify`: ``python -m benchmarks.mutations [--count N] [--seed S]``.

Every mutation flips, cuts, drops or inserts bytes of one file, or puts another value in place of one of its JSON or TOML
values. Verifying must end in problems or in none, never in a traceback; how many were told is printed by file, as some
mutations change nothing that matters.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from backend.bundle import DEMO
from backend.errors import BackendError
from backend.verify import verify_bundle

FILES = (
    "bundle.toml",
    "base/config.json",
    "base/tokenizer.json",
    "base/tokenizer_config.json",
    "base/model.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "function_schemas.json",
    "probe_heads.pt",
)
_VALUES = (b"null", b'"x/y"', b"-1", b"0", b"1e999", b"[]", b"{}", b"true", b'"\\ud800"', b"9" * 20, b'"../../x"', b"NaN")
_VALUE = re.compile(rb'(?<=[:=] )("[^"\n]*"|[\d.]+|true|false|null)')
SLOW_S = 10.0


@dataclass(slots=True)
class Outcome:
    """What became of the mutations."""

    count: int = 0
    problems: Counter[str] = field(default_factory=Counter)  # mutations that were told, by file
    crashes: list[str] = field(default_factory=list)  # file, seed and error
    slow: list[str] = field(default_factory=list)
    seconds: float = 0.0


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one thing wrong."""
    values = list(_VALUE.finditer(data[:200_000]))
    changed = bytearray(data)
    at = rng.randrange(len(data))
    match rng.choice(("value", "flip", "cut", "insert", "drop") if values else ("flip", "cut", "insert", "drop")):
        case "value":
            found = rng.choice(values)
            changed[found.start() : found.end()] = rng.choice(_VALUES)
        case "flip":
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(data))] = rng.randrange(256)
        case "cut":
            del changed[at:]
        case "insert":
            changed[at:at] = rng.randbytes(rng.randint(1, 20))
        case _:
            del changed[at : at + rng.randint(1, 40)]
    return bytes(changed)


def run(source: Path, *, count: int, seed: int = 0) -> Outcome:
    """Verify `count` damaged copies of a bundle; the source itself is left alone."""
    outcome, started = Outcome(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(source, Path(place) / "bundle")
        for number in range(seed, seed + count):
            rng = random.Random(number)
            path = folder / rng.choice(FILES)
            whole = path.read_bytes()
            path.write_bytes(mutated(whole, rng))
            _verify(folder, f"{path.relative_to(folder)} seed {number}", outcome)
            path.write_bytes(whole)
    outcome.seconds = time.monotonic() - started
    return outcome


def _verify(folder: Path, what: str, outcome: Outcome) -> None:
    started = time.monotonic()
    outcome.count += 1
    try:
        if verify_bundle(folder):
            outcome.problems[what.split()[0]] += 1
    except BackendError:
        outcome.problems[what.split()[0]] += 1
    except BaseException as error:  # what this looks for, PanicException of tokenizers included
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome.crashes.append(f"{what}: {type(error).__name__}: {error}"[:200])
    if time.monotonic() - started > SLOW_S:
        outcome.slow.append(what)


def main() -> None:
    """Print what happened; exit code 1 after a crash."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    outcome = run(arguments.bundle, count=arguments.count, seed=arguments.seed)
    told = ", ".join(f"{name} {n}" for name, n in sorted(outcome.problems.items()))
    print(f"{outcome.count} mutations in {outcome.seconds:.0f} s: {outcome.problems.total()} told ({told})")
    print(f"crashes: {len(outcome.crashes)}, slower than {SLOW_S:g} s: {len(outcome.slow)}")
    print("\n".join([*outcome.crashes, *outcome.slow]))
    raise SystemExit(1 if outcome.crashes else 0)


if __name__ == "__main__":
    main()
