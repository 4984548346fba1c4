"""Damaged bundles and evaluation sets: ``python -m benchmarks.mutations --kind bundles|datasets [--count N] [--seed S]``.

Each mutation damages one file of a small random bundle, or an evaluation set of it in one of the three formats. A worker
process does with it what app and command line do: open the bundle, load probe and runtime, answer a prompt, verify (one
time in four); read and tokenise the set. It may be refused, in a message that names the file (and line, of a set), or taken
where nothing that matters was changed. Anything else is counted: another exception, the death of the worker, more than ten
seconds, a message without the name, or that a planted file of code or pickle was run. Exit code 1 for any of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.errors import BackendError
from benchmarks.damage import WAYS, in_bytes, in_kind, in_structure, restore

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
SETS = ("set.jsonl", "set.csv", "set.json")
SLOW_S = 10.0
_VERIFY_EVERY = 4
_LINE = re.compile(r"line \d|data\[\d")
# said of a whole file: no line is to blame
_WHOLE = (
    "no usable example",
    "cannot be read",
    "holds no list",
    "No such file",
    "Nothing to evaluate",
    "leads out",
    "is missing",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one mutation."""

    seed: int
    file: str
    way: str
    refused: str = ""  # the message, empty where it was taken
    fault: str = ""  # what must not be
    seconds: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What became of all of them."""

    count: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by file
    ways: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    deaths: int = 0
    executed: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


def make_source(folder: Path) -> Path:
    """Write a small random bundle with one evaluation set in three formats."""
    from tests import tiny

    tiny.make(folder)
    gold = {"origin": {"char_start": 9, "char_end": 15, "value": "Boston"}}
    texts = [f"fly from Boston to {n} Rome" for n in range(12)]
    rows = [{"id": f"e{n}", "function": "book", "utterance": t, "slots": gold} for n, t in enumerate(texts)]
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"e{n},book,{text},origin,9,15,Boston\n" for n, text in enumerate(texts)]
    (folder / "set.csv").write_text("id,function,utterance,slot,char_start,char_end,value\n" + "".join(lines))
    answer = {"question": "origin", "id": "1", "is_impossible": False, "answers": [{"text": "Boston", "answer_start": 9}]}
    paragraphs = [{"context": text, "qas": [answer]} for text in texts]
    (folder / "set.json").write_text(json.dumps({"data": [{"title": "book", "paragraphs": paragraphs}]}, indent=1))
    (folder / "bundle.toml").write_text('dataset = "set.jsonl"\n' + (folder / "bundle.toml").read_text())
    return folder


def try_bundle(folder: Path, seed: int) -> str:
    """Do what app and command line do with a bundle; return the message of a refusal."""
    from backend.bundle import load_bundle
    from backend.runtimes.base import ForwardOptions
    from backend.runtimes.load import load_runtime
    from backend.schema import load_schemas
    from backend.verify import verify_bundle

    told = ""
    if seed % _VERIFY_EVERY == 0:
        told = "\n".join(map(str, verify_bundle(folder)))
    try:
        bundle = load_bundle(folder)
        schema = next(iter(load_schemas(bundle.schemas).values()))
        probe = bundle.load_probe()
        prompt = probe.builder.build(schema, "fly from Boston to Rome")
        runtime = load_runtime(bundle.runtimes[0])
        probe.predict(prompt, runtime.forward([prompt.ids], ForwardOptions())[0])
    except BackendError as error:
        return f"{told}\n{error}"
    return ""


def try_dataset(path: Path, folder: Path) -> str:
    """Read and tokenise an evaluation set as an evaluation does; return the message of a refusal."""
    from backend.bundle import load_bundle
    from backend.evaluation import read_windows
    from backend.plan import Plan

    bundle = _cached(folder, load_bundle)
    plan = Plan(bundle, bundle.runtimes, (True,), (False,), path)
    try:
        n = sum(len(window.examples) for window in read_windows(plan, _cached(folder, _builder)))
    except BackendError as error:
        return str(error)
    assert n > 0  # an empty set must be refused
    return ""


_kept: dict[object, object] = {}


def _cached(folder: Path, make: Callable[[Path], object]) -> object:
    if (folder, make) not in _kept:
        _kept[folder, make] = make(folder)
    return _kept[folder, make]


def _builder(folder: Path) -> object:
    from backend.bundle import load_bundle

    return load_bundle(folder).load_probe().builder


def trials(kind: str, whole: Path, place: Path, seeds: list[int]) -> Iterator[tuple[str, object]]:
    """Yield ``("begin", seed)`` and ``("end", Result)`` for each mutation."""
    folder = shutil.copytree(whole, place / "bundle")
    if kind == "bundles":
        try_bundle(whole, 0)  # starts the process that examines, which imports as well
    files, ways = (FILES, WAYS) if kind == "bundles" else (SETS, (in_bytes, in_structure, in_kind))
    for seed in seeds:
        yield "begin", seed
        rng, canary = random.Random(seed), place / "canary"
        target = rng.choice(files)
        way = rng.choice(ways)(folder / target, rng, canary)
        started, refused, fault = time.monotonic(), "", ""
        try:
            refused = try_bundle(folder, seed) if kind == "bundles" else try_dataset(folder / target, whole)
            fault = _unnamed(kind, target, refused)
        except BaseException as error:  # what this looks for, PanicException of tokenizers included
            if isinstance(error, KeyboardInterrupt):
                raise
            fault = f"{type(error).__name__}: {error}"[:300]
        seconds = time.monotonic() - started
        if canary.exists():
            fault = "CODE WAS RUN"
            shutil.rmtree(canary)
        yield "end", Result(seed, target, way, refused, fault, seconds)
        restore(folder, whole)


def _unnamed(kind: str, target: str, refused: str) -> str:
    """Return a fault where a message does not say which file, and which line of a set, is to blame."""
    if not refused:
        return ""
    name = Path(target).name
    parts = {name, Path(target).parent.name or name, name.split(".")[0].removesuffix("_config")}
    if kind == "bundles" and not any(part in refused for part in parts):
        return f"no file named: {refused}"[:300]
    if kind == "datasets" and (name not in refused or not (_LINE.search(refused) or any(w in refused for w in _WHOLE))):
        return f"no file or line named: {refused}"[:300]
    return ""


def _work(kind: str, whole: Path, seeds: list[int], log: Path) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, log.open("a") as file:
        os.environ["PROBE_PARITY_STORE"] = place
        for what, said in trials(kind, whole, Path(place), seeds):
            print(json.dumps([what, said if what == "begin" else asdict(said)]), file=file, flush=True)


def run(kind: str, *, count: int, seed: int = 0, workers: int = 2) -> Outcome:
    """Try ``count`` mutations; a worker that dies is replaced and its mutation counted."""
    import torch

    torch.set_num_threads(1)
    outcome, started = Outcome(), time.monotonic()
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        whole = make_source(Path(place) / "whole")
        os.environ["PROBE_PARITY_STORE"] = place
        try_dataset(whole / SETS[0], whole)
        if (refused := try_bundle(whole, 1)) != "":
            raise RuntimeError(refused)  # each import is done here, once
        jobs = {n: list(range(seed, seed + count))[n::workers] for n in range(workers)}
        while any(jobs.values()):
            logs = {n: Path(place) / f"{n}.log" for n, left in jobs.items() if left}
            live = {n: fork.Process(target=_work, args=(kind, whole, jobs[n], log)) for n, log in logs.items()}
            for process in live.values():
                process.start()
            for n, process in live.items():
                process.join()
                jobs[n] = _account(outcome, logs[n], jobs[n], process.exitcode)
                logs[n].unlink()
    outcome.seconds = time.monotonic() - started
    return outcome


def _account(outcome: Outcome, log: Path, seeds: list[int], code: int | None) -> list[int]:
    """Add a worker's results and return the seeds that it did not come to."""
    begun = -1
    for line in log.read_text().splitlines():
        what, said = json.loads(line)
        if what == "begin":
            begun = said
            continue
        result = Result(**said)
        outcome.count += 1
        outcome.ways[result.way] += 1
        outcome.refused[result.file] += bool(result.refused)
        outcome.slowest = max(outcome.slowest, result.seconds)
        outcome.executed += result.fault == "CODE WAS RUN"
        if result.seconds > SLOW_S:
            outcome.slow.append(f"seed {result.seed}, {result.file}, {result.way}: {result.seconds:.1f} s")
        if result.fault:
            outcome.faults.append(f"seed {result.seed}, {result.file}, {result.way}: {result.fault}")
    if code == 0:
        return []
    if begun < 0:
        raise RuntimeError(f"a worker ended with {code} before its first mutation")
    outcome.deaths += 1
    outcome.count += 1
    outcome.faults.append(f"seed {begun}: the process died ({code})")
    return seeds[seeds.index(begun) + 1 :]


def main() -> int:
    """Print what happened; exit code 1 for anything that must not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("bundles", "datasets"), default="bundles")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    outcome = run(arguments.kind, count=arguments.count, seed=arguments.seed, workers=arguments.workers)
    refused = ", ".join(f"{name} {n}" for name, n in sorted(outcome.refused.items()))
    print(
        f"{outcome.count} mutations of {arguments.kind} in {outcome.seconds:.0f} s, {len(outcome.ways)} ways: "
        f"{outcome.refused.total()} refused by name ({refused})"
    )
    print(
        f"code executions: {outcome.executed}, deaths: {outcome.deaths}, slowest {outcome.slowest:.1f} s, "
        f"over {SLOW_S:g} s: {len(outcome.slow)}, faults in all: {len(outcome.faults)}"
    )
    print("\n".join([*outcome.faults[:50], *outcome.slow[:50]]))
    return int(bool(outcome.faults or outcome.slow))


if __name__ == "__main__":
    raise SystemExit(main())
