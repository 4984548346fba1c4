"""A stored run against a plain loop as upstream evaluates: ``python -m benchmarks.upstream_loop --run N [--limit N]``.

The loop shares nothing with the evaluation but the runtime that computes states: it reads the JSONL itself, joins the
prompt from separately tokenised pieces, takes the heads from ``probe_heads.pt``, decodes start and end apart, and counts.
Every answer and every cell must be equal. States come in the batches of the run; ``--one`` asks for each prompt alone, as
upstream does: in BF16 a batch of another shape rounds otherwise, and near ties that then differ are listed with margins.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from backend.evaluation import BATCH, TOKEN_BUDGET, WINDOW
from backend.plan import Plan
from backend.pool import Pool
from backend.prompt import load_tokenizer
from backend.report import toggles_text
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.batching import token_budget_batches
from backend.store import Row, Store
from backend.store_path import default_store


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of the dataset as upstream's script turns it into a prompt."""

    id: str
    slots: list[str]
    gold: dict[str, list[int]]  # token indices of the utterance
    ids: list[int]
    body: tuple[int, int]  # prompt tokens of the utterance
    queries: list[int]


def ask(line: str, number: int, schemas: dict, tokenizer: PreTrainedTokenizerFast) -> Asked:
    """Join a prompt as the upstream script does."""
    record = json.loads(line)

    def piece(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    body = tokenizer(record["utterance"], add_special_tokens=False, return_offsets_mapping=True)
    ids = piece(f"Function: {record['function']}\n")
    first = len(ids)
    ids += [*body["input_ids"], *piece("\n\n")]
    slots, queries = sorted(schemas[record["function"]]["slots"]), []
    for slot in slots:
        ids += piece(f"{slot}:")
        queries.append(len(ids) - 1)
        ids += piece("\n")
    gold = {
        slot: [i for i, (a, b) in enumerate(body["offset_mapping"]) if a < g["char_end"] and b > g["char_start"]]
        for slot, g in record["slots"].items()
    }
    return Asked(str(record.get("id", number)), slots, gold, ids, (first, first + len(body["input_ids"])), queries)


def answers(
    asked: Asked, states: Tensor, heads: dict, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[str, str | None]]:
    """Yield slot and value (None: absent), one slot at a time."""
    null, pointer = heads["null_head"], heads["pointer_head"]
    first, last = asked.body
    tokens = states[first:last]
    for slot, position in zip(asked.slots, asked.queries, strict=True):
        query = states[position]
        logits = null["classifier.weight"].float() @ query + null["classifier.bias"].float()
        start = int((tokens @ (pointer["W_start.weight"].float() @ query)).argmax())
        end = int((tokens @ (pointer["W_end.weight"].float() @ query)).argmax())
        end = start if end < start else end
        value = tokenizer.decode(asked.ids[first + start : first + end + 1]).strip()
        yield slot, None if int(logits.argmax()) == 1 else value


def batches(asked: list[Asked], *, one: bool) -> Iterator[list[Asked]]:
    """Yield prompts as the evaluation batched them, or one by one."""
    for at in range(0, len(asked), WINDOW):
        window = asked[at : at + WINDOW]
        lengths = [len(a.ids) for a in window]
        most = 1 if one else BATCH
        for batch in token_budget_batches(lengths, budget=TOKEN_BUDGET, most=most):
            yield [window[i] for i in batch]


def check_arm(
    runtime: Runtime,
    lora: bool,
    plan: Plan,
    asked: list[Asked],
    stored: dict[bool, dict[tuple[str, str], Row]],
    *,
    one: bool,
) -> bool:
    """Compare the cells of one runtime and LoRA setting; print one line a cell and every answer that differs."""
    tokenizer = load_tokenizer(plan.bundle.base)
    heads = torch.load(plan.bundle.heads, map_location="cpu", weights_only=True)
    equal = True
    right, present, differ = dict.fromkeys(stored, 0), dict.fromkeys(stored, 0), dict.fromkeys(stored, 0)
    for batch in batches(asked, one=one):
        found = runtime.forward([a.ids for a in batch], ForwardOptions(lora=lora))
        for a, raw in zip(batch, found, strict=True):
            for normalized in stored:
                states = raw.float() / raw.float().norm(dim=-1, keepdim=True) if normalized else raw.float()
                for slot, value in answers(a, states, heads, tokenizer):
                    if slot in a.gold:
                        hits = [a.body[0] + i for i in a.gold[slot]]
                        present[normalized] += 1
                        right[normalized] += value == tokenizer.decode(a.ids[hits[0] : hits[-1] + 1]).strip()
                    row = stored[normalized][a.id, slot]
                    if value != (row.value if row.present else None):
                        differ[normalized] += 1
                        margins = (row.null_present - row.null_absent, row.start_margin, row.end_margin)
                        print(f"  {a.id} {slot}: loop {value!r}, run {row.value!r}, margins {margins}")
    for normalized, rows in stored.items():
        mine = sum(row.right for row in rows.values() if row.gold_present)
        same = (right[normalized], differ[normalized]) == (mine, 0)
        equal &= same
        print(
            f"{runtime.spec.name:20s} {toggles_text(normalized, lora)}: loop {right[normalized]} of {present[normalized]} "
            f"right, run {mine}; {differ[normalized]} of {len(rows)} answers differ  {'equal' if same else 'NOT EQUAL'}",
            flush=True,
        )
    return equal


def main() -> int:
    """Check every cell of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=default_store())
    parser.add_argument("--run", type=int, required=True)
    parser.add_argument(
        "--limit", type=int, help="only the first examples; whole windows of the run are needed for equality"
    )
    parser.add_argument("--one", action="store_true", help="one prompt at a time")
    arguments = parser.parse_args()
    with Store(arguments.store) as store, Pool() as pool:
        plan = Plan.from_settings(store.run(arguments.run).settings)
        schemas = json.loads(plan.bundle.schemas.read_text(encoding="utf-8"))
        tokenizer = load_tokenizer(plan.bundle.base)
        lines = (line for line in plan.dataset.read_text(encoding="utf-8").split("\n") if line.strip())
        limits = [n for n in (plan.limit, arguments.limit) if n is not None]
        asked = [
            ask(line, n, schemas, tokenizer) for n, line in enumerate(islice(lines, min(limits, default=None)), start=1)
        ]
        wanted = {a.id for a in asked}
        equal = True
        for spec in plan.specs:
            for lora in plan.loras:
                stored: dict[bool, dict[tuple[str, str], Row]] = {}
                for key, cell in store.cells(arguments.run).items():
                    if (key.runtime, key.lora) == (spec.name, lora):
                        rows = (row for row in store.rows(arguments.run, cells=[cell]) if row.example in wanted)
                        stored[key.normalize] = {(row.example, row.slot): row for row in rows}
                equal &= check_arm(pool.get(spec), lora, plan, asked, stored, one=arguments.one)
    print("All cells equal the loop." if equal else "Some cells differ from the loop.")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
