"""A bundle without a model: the demo's tokenizer, random heads and a recording of random states; datasets of any size."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backend.bundle import DEMO, load_bundle
from backend.norms import normalize
from backend.plan import Plan
from backend.record import record
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec

D = 32
N_PROMPTS = 500  # distinct ones; a larger dataset repeats them under new ids
_CITIES = ("Boston", "Seattle", "Oslo", "New York", "São Paulo", "Kyoto", "Nairobi", "Lima")
_WORDS = ("please", "fly", "me", "from", "to", "on", "Friday", "(-1, -2)", "$20", "for", "two", "people", "tomorrow", "ok")


class SeededRuntime(Runtime):
    """States that are a function of the token ids alone."""

    def _forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        made = [self._states(row, options.lora) for row in ids]
        return [normalize(states) for states in made] if options.normalize else made

    def _states(self, row: Sequence[int], lora: bool) -> Tensor:
        seed = zlib.crc32(repr((*row, self.spec.name, lora)).encode())  # the same in every process, unlike hash
        return torch.randn(len(row), D, generator=torch.Generator().manual_seed(seed))

    def _close(self) -> None:
        pass


def seeded(spec: RuntimeSpec) -> SeededRuntime:
    """Make a live runtime of a spec, whatever its engine."""
    info = RuntimeInfo(device="cpu", dtype="float32", d_model=D, max_tokens=1024, has_adapter=True)
    return SeededRuntime(spec, info)


def make_bundle(folder: Path, *, runtimes: Sequence[str] = ("a",), slots: Sequence[str] = ("city",)) -> Path:
    """Write the bundle with a recording of its runtimes and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    heads = {
        "null_head": {"classifier.weight": torch.randn(2, D), "classifier.bias": torch.zeros(2)},
        "pointer_head": {"W_start.weight": torch.randn(D, D), "W_end.weight": torch.randn(D, D)},
    }
    torch.save(heads, folder / "probe_heads.pt")
    schema = {
        "travel": {"name": "travel", "slots": {slot: {"type": "string", "kind": f"kind of {slot}"} for slot in slots}}
    }
    (folder / "function_schemas.json").write_text(json.dumps(schema))
    (folder / "adapter").mkdir(exist_ok=True)  # never loaded: it only says that there is LoRA to turn off
    write_rows(folder / "set.jsonl", N_PROMPTS, slots=slots)
    entries = "".join(
        f'[[runtime]]\nname = "{name}"\nengine = "recorded"\nrecording = "all.recording"\n' for name in runtimes
    )
    text = f"base = {json.dumps(str(DEMO / 'base'))}\nadapter = 'adapter'\ndataset = 'set.jsonl'\n{entries}"
    (folder / "bundle.toml").write_text(text)
    bundle = load_bundle(folder)
    specs = tuple(replace(spec, recording="") for spec in bundle.runtimes)
    live = {spec: seeded(spec) for spec in specs}
    plan = Plan(bundle, specs, (True, False), (False, True), folder / "set.jsonl")
    record(plan, live.__getitem__, folder / "all.recording")
    return folder


def write_rows(path: Path, n: int, *, slots: Sequence[str] = ("city",)) -> None:
    """Write ``n`` examples of at most `N_PROMPTS` distinct utterances, each with an id of its own."""
    rng = random.Random(0)
    lines = [_row(rng, slots) for _ in range(min(n, N_PROMPTS))]
    with path.open("w", encoding="utf-8") as file:
        for number in range(n):
            file.write(f'{{"id": "row {number}", {lines[number % len(lines)]}}}\n')


def _row(rng: random.Random, slots: Sequence[str]) -> str:
    gold, text = {}, ""
    for slot in slots:
        text += " ".join(rng.choices(_WORDS, k=rng.randint(1, 8))) + " "
        if rng.random() < 0.8:
            city = rng.choice(_CITIES)
            gold[slot] = {"char_start": len(text), "char_end": len(text) + len(city), "value": city}
            text += city + " "
    text += f"{rng.randrange(10**6)}"  # distinct utterances
    return json.dumps({"function": "travel", "utterance": text, "slots": gold}, ensure_ascii=False)[1:-1]
