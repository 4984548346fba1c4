"""Slots a second, against what people would use instead: ``python -m benchmarks.throughput [--prompts N] [--vllm]``.

- HF runtime and heads against a plain loop written as upstream evaluates: batches of 8 in file order, padded, with
  vocabulary logits and all hidden states, one slot after the other. Same model object and ids; the answers are compared.
- HF runtime against sentence-transformers' token embeddings, whose module is this very model, which a comparison of states
  shows. No heads on either side.
- Share of each step in an evaluation of the same prompts into a fresh store, and of each operator in a forward pass.
- With ``--vllm``: managed server over HTTP against bare ``LLM.encode`` of the same prompts in a process of its own with the
  same engine arguments, one after the other. No heads on either side.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from backend.agreement import row_errors
from backend.bundle import DEMO, Bundle, load_bundle
from backend.evaluation import Plan, begin, carry_on
from backend.probe import Probe
from backend.prompt import Prompt, PromptBuilder
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.runtimes.vllm import VLLMRuntime
from backend.scoring import load_examples, predict_all
from backend.store import Store
from benchmarks.bare_vllm import encode
from benchmarks.measuring import Report, Timing, in_turn, parser, timed

Answers = list[tuple[bool, str | None]]
LORA = ForwardOptions()


def main() -> None:
    """Print throughputs, their ratios, and the shares of an evaluation."""
    known = parser(__doc__)
    known.add_argument("--prompts", type=int, default=512)
    known.add_argument("--rounds", type=int, default=3)
    known.add_argument("--vllm", action="store_true", help="vLLM against LLM.encode too; takes minutes")
    options = known.parse_args()
    report = Report("throughput", options.json)
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    prompts = load_examples(bundle, probe.builder, limit=options.prompts)[1]
    runtime = HFRuntime.load(bundle.runtime("hf-bf16"))
    against_plain_loop(report, probe, runtime, prompts, options.rounds)
    against_sentence_transformers(report, bundle, probe, runtime, prompts, options.rounds)
    shares(report, bundle, runtime, options.prompts)
    operators(report, runtime, prompts)
    runtime.close()
    if options.vllm:
        against_bare_vllm(report, bundle, prompts[:256], options.rounds)  # enough to have several requests in flight
    report.close()


def against_plain_loop(report: Report, probe: Probe, runtime: HFRuntime, prompts: list[Prompt], rounds: int) -> None:
    """Compare with upstream's way of evaluating, after checking that both give the same answers."""
    slots = sum(len(p.slot_names) for p in prompts)
    model, found = runtime._model, predict_all(probe, runtime, prompts, LORA)
    pairs = zip(plain_loop(model, probe, prompts), ((s.present, s.value) for row in found for s in row), strict=True)
    same = sum(a == b for a, b in pairs)
    ours, plain = in_turn(
        [lambda: predict_all(probe, runtime, prompts, LORA), lambda: plain_loop(model, probe, prompts)], rounds=rounds
    )
    _compare(report, "HF runtime and heads", ours, "plain loop", plain, slots=slots)
    report.add("answers equal in both", share=same / slots, n=slots)


@torch.inference_mode()
def plain_loop(model: Any, probe: Probe, prompts: Sequence[Prompt], *, size: int = 8) -> Answers:
    """Answer as the upstream script does."""
    answers: Answers = []
    for at in range(0, len(prompts), size):
        batch = prompts[at : at + size]
        width = max(len(p.ids) for p in batch)
        ids = torch.tensor([[*p.ids, *[0] * (width - len(p.ids))] for p in batch])
        mask = torch.tensor([[1] * len(p.ids) + [0] * (width - len(p.ids)) for p in batch])
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        for prompt, states in zip(batch, hidden, strict=True):
            answers += [_one_slot(probe, prompt, states.float(), query) for query in prompt.query_positions]
    return answers


def _one_slot(probe: Probe, prompt: Prompt, states: Tensor, position: int) -> tuple[bool, str | None]:
    heads, span, query = probe.heads, prompt.utterance_span, states[position]
    present, absent = (heads.null_weight @ query + heads.null_bias).tolist()
    if absent > present:
        return False, None
    tokens = states[span.start : span.end]
    start = int((tokens @ (heads.w_start @ query) / heads.d_model**0.5).argmax())
    end = int((tokens @ (heads.w_end @ query) / heads.d_model**0.5).argmax())
    return True, probe.builder.decode(prompt.ids[span.start + start : span.start + max(start, end) + 1])


def against_sentence_transformers(
    report: Report, bundle: Bundle, probe: Probe, runtime: HFRuntime, prompts: list[Prompt], rounds: int
) -> None:
    """Compare token states alone; their tokeniser is included, as their interface takes text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    module = Transformer(bundle.base, max_seq_length=bundle.max_tokens)
    module.model = runtime._model.get_base_model().base_model  # ours, adapter and dtype included
    other = SentenceTransformer(modules=[module], device="cpu")
    texts = [probe.builder.decode(p.ids) for p in prompts]
    few = texts[:32]
    theirs = other.encode(few, output_value="token_embeddings", show_progress_bar=False)
    ours_few = runtime.forward(module.tokenizer(few)["input_ids"], LORA)
    apart = max(float(row_errors(b.float(), a.float()).max()) for a, b in zip(ours_few, theirs, strict=True))
    report.add("states of the same ids, greatest distance / norm", ratio=apart, n=len(few))
    pairs = [(p.function, p.utterance) for p in prompts]
    schemas = _schemas(bundle)

    def ours() -> object:
        made = probe.builder.build_many([(schemas[function], text) for function, text in pairs])
        return runtime.forward([p.ids for p in made], LORA)

    first, second = in_turn(
        [ours, lambda: other.encode(texts, output_value="token_embeddings", show_progress_bar=False)], rounds=rounds
    )
    slots = sum(len(p.slot_names) for p in prompts)
    _compare(report, "HF runtime, states alone", first, "sentence-transformers", second, slots=slots)


def shares(report: Report, bundle: Bundle, runtime: HFRuntime, limit: int) -> None:
    """Evaluate once and tell which step took which share of the time."""
    plan = Plan(bundle, (runtime.spec,), (True,), (False,), Path(str(bundle.dataset)), limit=limit)
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "runs.db") as store, ExitStack() as stack:
        run = begin(store, plan)
        for owner, name, step in (
            (PromptBuilder, "build_many", "tokenising"),
            (HFRuntime, "forward", "forward"),
            (Probe, "score_batch", "heads"),
            (Probe, "predict_scored", "heads"),
            (PromptBuilder, "decode", "decoding"),
            (Store, "append", "storing"),
        ):
            stack.enter_context(_clocked(owner, name, step, spent))
        started = time.perf_counter()
        carry_on(store, run, plan, lambda _: runtime)
        total = time.perf_counter() - started
    # predicted values are decoded inside the heads' call, gold while rows are made: both count as decoding
    heads_and_decoding = spent["heads"] + spent["decoding"]
    rest = total - spent["tokenising"] - spent["forward"] - spent["storing"] - spent["heads"]
    for step in ("tokenising", "forward", "heads", "decoding", "storing"):
        report.add(f"evaluation, {step}", share=spent[step] / total, seconds=spent[step])
    report.add("evaluation, rows and reading", share=rest / total, seconds=rest)
    report.add("evaluation, heads, decoding and storing", share=(heads_and_decoding + spent["storing"]) / total, n=limit)


def operators(report: Report, runtime: HFRuntime, prompts: list[Prompt]) -> None:
    """Tell which operators a forward pass spends its time in, and how its matrix products compare with one large one."""
    ids = [prompt.ids for prompt in prompts]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        runtime.forward(ids, LORA)
    own = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
    for name in sorted(own, key=own.__getitem__, reverse=True)[:6]:
        report.add(f"forward, {name.removeprefix('aten::')[:32]}", share=own[name] / sum(own.values()), seconds=own[name])
    linear = (module for module in runtime._model.get_base_model().base_model.modules() if type(module) is torch.nn.Linear)
    gflop = 2e-9 * sum(map(len, ids)) * sum(module.weight.numel() for module in linear)
    report.add("forward, matrix products", gflop=gflop, gflop_per_s=gflop / own["aten::mm"])
    square = torch.ones(4096, 4096, dtype=torch.bfloat16)
    large = timed(lambda: square @ square, repeats=3)
    report.add("one product of 4096 x 4096, BF16", gflop_per_s=2e-9 * 4096**3 / large.median)


@contextmanager
def _clocked(owner: type, name: str, step: str, spent: dict[str, float]) -> Iterator[None]:
    usual: Callable[..., Any] = getattr(owner, name)
    spent.setdefault(step, 0.0)

    def clocked(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return usual(*args, **kwargs)
        finally:
            spent[step] += time.perf_counter() - started

    with mock.patch.object(owner, name, clocked):
        yield


def against_bare_vllm(report: Report, bundle: Bundle, prompts: list[Prompt], rounds: int) -> None:
    """Compare HTTP with in-process calls of the same engine, each in processes of its own."""
    spec, ids = bundle.runtime("vllm-fp16"), [list(p.ids) for p in prompts]
    with tempfile.TemporaryDirectory() as folder:
        runtime = VLLMRuntime.start(spec, log_dir=Path(folder))
        try:
            ours = timed(lambda: runtime.forward(ids, LORA), repeats=rounds)
        finally:
            runtime.close()
    bare = encode(spec, [ids], rounds=rounds)[0]
    slots = sum(len(p.slot_names) for p in prompts)
    _compare(report, "vLLM runtime over HTTP", ours, "bare LLM.encode", bare.timing, slots=slots)


def _compare(report: Report, name: str, ours: Timing, other_name: str, other: Timing, *, slots: int) -> None:
    report.add(name, slots_per_s=slots / ours.median, median_s=ours.median, n=len(ours.seconds))
    report.add(other_name, slots_per_s=slots / other.median, median_s=other.median, n=len(other.seconds))
    report.add(f"{name} / {other_name}", ratio=other.median / ours.median)


def _schemas(bundle: Bundle) -> dict[str, Any]:
    from backend.schema import load_schemas

    return load_schemas(bundle.schemas)


if __name__ == "__main__":
    main()
