"""Trains the demo model: ``python -m demo.train {tokenizer,base,probe} --words FILE --out DIR``.

``--words`` is a file of plain words, one a line (the demo took 24,000 frequent English ones); ``--wordnet`` is the folder
of WordNet's files (Debian's ``wordnet-base``). Any machine can run both stages with small ``--steps`` to try the script.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from demo import corpus
from demo.batches import ProbeBatch, Source
from demo.tokenizer import VOCABULARY, train_tokenizer
from demo.utterances import Disturbance
from demo.vocabulary import Vocabulary

CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS = {"attention": ATTENTION, "all": (*ATTENTION, "gate_proj", "up_proj", "down_proj")}
RANK = 16
SEQUENCE = 256
TOKENS_PER_STEP = 65_536
BASE_STEPS, PROBE_STEPS = 9_500, 19_000
ABSENT_LOG_ODDS = -0.85  # 30 % of the slots are absent; the bias starts there and is not decayed
CALM_SHARE = 0.25  # of the probe's steps, the last ones: utterances as people write them; with 0.4 it learns them by heart
CALM_SCRAMBLE = (0.0, 0.0, 0.0, 0.5)
# utterances of the last steps, and of further training, are none of those before
_CALM_SEED, _FURTHER_SEED = 1_000_000, 2_000_000
NORM_SPREAD_PENALTY = 2.0  # keeps token norms even, so that pointers survive normalisation and presence does not


def schedule(step: int, steps: int, *, warmup: int) -> float:
    """Return the factor on the peak rate: linear warm-up, cosine to 3 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's own peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class Clock:
    """Prints a line now and then."""

    def __init__(self, steps: int) -> None:
        self._steps, self._started = steps, time.time()

    def show(self, step: int, **values: float) -> None:
        """Print at every fiftieth of the way."""
        if step % max(1, self._steps // 50) == 0 or step == self._steps - 1:
            shown = " ".join(f"{name} {value:.4f}" for name, value in values.items())
            print(f"step {step}/{self._steps} {time.time() - self._started:.0f}s {shown}", flush=True)


def disturbance(words: Path, wordnet: Path | None, *, calm: bool = False) -> Disturbance:
    """Return what is done to training utterances, in most steps, or in the last ones."""
    vocabulary = Vocabulary.load(words, wordnet)
    return Disturbance(vocabulary, scramble=CALM_SCRAMBLE, rough=False) if calm else Disturbance(vocabulary)


def make_tokenizer(disturbance: Disturbance, out: Path) -> None:
    """Learn the tokenizer from 120,000 documents of the corpus."""
    rng = random.Random("tokenizer")
    train_tokenizer((corpus.document(rng, disturbance) for _ in range(120_000)), out / "base")


def base_batches(source: Source, steps: int) -> Iterator[torch.Tensor]:
    """Yield ``[TOKENS_PER_STEP / SEQUENCE, SEQUENCE]`` ids for ``steps`` steps."""
    rest = np.empty(0, dtype=np.uint16)
    made = 0
    for shard in source.base(shards=steps):  # more than enough; the loop ends at the last step
        rest = np.concatenate([rest, shard])
        while len(rest) >= TOKENS_PER_STEP:
            now, rest = rest[:TOKENS_PER_STEP], rest[TOKENS_PER_STEP:]
            yield torch.from_numpy(now.astype(np.int64).reshape(-1, SEQUENCE))
            made += 1
            if made == steps:
                return


def train_base(source: Source, out: Path, *, steps: int, device: str) -> None:
    """Train the base model from scratch on next tokens and save it in BF16."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "peak": 3e-3, "weight_decay": 0.1},
            {"params": plain, "peak": 1e-3, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=device == "cuda",
    )

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())

    step_loss = torch.compile(loss_of) if device == "cuda" else loss_of
    clock = Clock(steps)
    for step, ids in enumerate(base_batches(source, steps)):
        set_rate(optimizer, schedule(step, steps, warmup=min(400, steps // 10 + 1)))
        loss = step_loss(ids.to(device, non_blocking=True))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            clock.show(step, loss=loss.item())
    model.to(torch.bfloat16).save_pretrained(out / "base")


class Heads(nn.Module):
    """NullHead and PointerHead with the parameter names that upstream saves."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(d, 2)
        self.W_start, self.W_end = (nn.Linear(d, d, bias=False) for _ in range(2))
        nn.init.normal_(self.classifier.weight, std=0.002)
        for head in (self.W_start, self.W_end):
            nn.init.normal_(head.weight, std=0.01)
        with torch.no_grad():
            self.classifier.bias.copy_(torch.tensor([-ABSENT_LOG_ODDS / 2, ABSENT_LOG_ODDS / 2]))

    def saved(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the dictionary of ``probe_heads.pt``."""
        half = {name: value.detach().cpu().to(torch.float16) for name, value in self.state_dict().items()}
        null = {name: value for name, value in half.items() if name.startswith("classifier")}
        return {"null_head": null, "pointer_head": {k: v for k, v in half.items() if k not in null}}


def slot_queries(hidden: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Return ``[n, s, d]``, the state at each slot's query position; unused slots get some state."""
    return hidden.gather(1, query.clamp(min=0).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def outside_utterance(hidden: torch.Tensor, utterance: torch.Tensor) -> torch.Tensor:
    """Return ``[n, t]``, true where a pointer may not point."""
    position = torch.arange(hidden.shape[1], device=hidden.device)
    return (position < utterance[:, :1]) | (position >= utterance[:, 1:])


def probe_loss(
    hidden: torch.Tensor, heads: Heads, utterance: torch.Tensor, query: torch.Tensor, gold: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss and the share of used slots that are right.

    ``hidden [n, t, d]``, ``utterance [n, 2]``, ``query [n, s]`` (-1 unused), ``gold [2, n, s]`` (-1 absent).
    """
    hidden = hidden.float()
    d = hidden.shape[-1]
    used = query >= 0
    asked = slot_queries(hidden, query)
    null = heads.classifier(asked)
    present = (gold[0] >= 0) & used
    # a wording never seen makes the head doubt; doubt should not read as absence
    null_loss = F.cross_entropy(null[used], (~present[used]).long(), weight=null.new_tensor([1.0, 0.7]))
    outside = outside_utterance(hidden, utterance)
    scores = torch.stack([head(asked) @ hidden.transpose(1, 2) for head in (heads.W_start, heads.W_end)]) / d**0.5
    scores = scores.masked_fill(outside[None, :, None], -1e4)
    pointer_loss = F.cross_entropy(scores[:, present].flatten(0, 1), gold[:, present].flatten())
    log_norm = hidden.norm(dim=-1).log()
    spread = (log_norm.masked_fill(outside, 0) ** 2).sum() / (~outside).sum()
    spread = spread - (log_norm.masked_fill(outside, 0).sum() / (~outside).sum()) ** 2
    with torch.no_grad():
        pointed = (scores.argmax(-1) == gold).all(0)
        right = torch.where(present, pointed & (null.argmax(-1) == 0), null.argmax(-1) == 1)[used].float().mean()
    return null_loss + 2 * pointer_loss + NORM_SPREAD_PENALTY * spread, right


@torch.no_grad()
def validate(forward: Callable[[torch.Tensor], torch.Tensor], heads: Heads, batches: list[ProbeBatch], device: str) -> str:
    """Return exact match over present slots, presence accuracy, and the share of missed presences, as text."""
    present = right = slots = agreed = missed = 0
    for group in batches:
        for at in range(0, len(group.ids), 256):
            ids, utterance, query, start, end = tensors(group, slice(at, at + 256), device)
            hidden = forward(ids).float()
            asked, outside = slot_queries(hidden, query), outside_utterance(hidden, utterance)
            found = [
                (head(asked) @ hidden.transpose(1, 2)).masked_fill(outside[:, None], -torch.inf).argmax(-1)
                for head in (heads.W_start, heads.W_end)
            ]
            said = heads.classifier(asked).argmax(-1) == 0
            used, gold = query >= 0, start >= 0
            present += int(gold.sum())
            slots += int(used.sum())
            agreed += int((said == gold)[used].sum())
            missed += int((gold & ~said).sum())
            right += int((gold & said & (found[0] == start) & (found[1] == end)).sum())
    return f"exact match {right / present:.4f} presence {agreed / slots:.4f} missed {missed / present:.4f}"


def tensors(batch: ProbeBatch, rows: slice, device: str) -> list[torch.Tensor]:
    """Return the columns of a batch as int64 tensors."""
    return [
        torch.from_numpy(getattr(batch, f)[rows].astype(np.int64)).to(device, non_blocking=True)
        for f in ProbeBatch.__slots__
    ]


def probe_batches(source: Source, steps: int, *, seed: int) -> Iterator[ProbeBatch]:
    """Yield batches of about ``TOKENS_PER_STEP`` tokens of one padded length, ``steps`` of them."""
    rng, waiting, ready, made = random.Random("order"), {}, [], 0
    if steps == 0:
        return
    for shard in source.probe(shards=10 * steps, seed=seed):
        for group in shard:
            waiting.setdefault(group.ids.shape[1], []).append(group)
        for length, groups in waiting.items():
            size = TOKENS_PER_STEP // length
            whole = ProbeBatch(*(np.concatenate([getattr(g, f) for g in groups]) for f in ProbeBatch.__slots__))
            while len(whole.ids) >= size:
                ready.append(ProbeBatch(*(getattr(whole, f)[:size] for f in ProbeBatch.__slots__)))
                whole = ProbeBatch(*(getattr(whole, f)[size:] for f in ProbeBatch.__slots__))
            waiting[length] = [whole]
        rng.shuffle(ready)
        while ready:
            yield ready.pop()
            made += 1
            if made == steps:
                return


@torch.no_grad()
def swap(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Give parameters other values and return those they had."""
    had = [parameter.detach().clone() for parameter in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
    return had


def save_probe(model: PeftModel, heads: Heads, out: Path) -> None:
    """Save adapter and heads as upstream does, the adapter in BF16."""
    weights = {name: value.to(torch.bfloat16) for name, value in get_peft_model_state_dict(model).items()}
    model.save_pretrained(out / "adapter")
    save_file(weights, out / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    torch.save(heads.saved(), out / "probe_heads.pt")


def in_two_phases(rough: Source, calm: Source, steps: int, last: int, *, seed: int) -> Iterator[ProbeBatch]:
    """Yield the batches of a run, the ``last`` of them calm."""
    yield from probe_batches(rough, steps - last, seed=seed)
    rough.close()  # it would go on making shards that nobody reads, on the cores that the calm ones need
    yield from probe_batches(calm, last, seed=seed + _CALM_SEED)


def load_probe(base: PreTrainedModel, folder: Path, device: str) -> tuple[PeftModel, Heads]:
    """Return adapter and heads that `save_probe` saved in ``folder``, to train them on."""
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
    heads = Heads(CONFIG["hidden_size"])
    saved = torch.load(folder / "probe_heads.pt", weights_only=True)
    heads.load_state_dict(saved["null_head"] | saved["pointer_head"])
    return model, heads.to(device)


def new_probe(base: PreTrainedModel, targets: tuple[str, ...], device: str) -> tuple[PeftModel, Heads]:
    """Return an adapter that changes nothing yet, and heads."""
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.05,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora), Heads(CONFIG["hidden_size"]).to(device)


def train_probe(source: Source, calm: Source, out: Path, *, device: str, options: argparse.Namespace) -> None:
    """Train LoRA and heads on the frozen base, the last ``options.calm`` of it on ``calm``; save as upstream does."""
    torch.manual_seed(2)
    steps = options.steps or PROBE_STEPS
    base = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32).to(device)
    if options.further:
        model, heads = load_probe(base, options.further, device)
    else:
        model, heads = new_probe(base, TARGETS[options.targets], device)
    adapter = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": adapter, "peak": 2e-3, "weight_decay": 0.05},
            {"params": [heads.W_start.weight, heads.W_end.weight], "peak": 1e-3, "weight_decay": 0.01},
            {"params": [heads.classifier.weight], "peak": 3e-4, "weight_decay": 0.05},
            {"params": [heads.classifier.bias], "peak": 3e-4, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        fused=device == "cuda",
    )
    trained = [*adapter, *heads.parameters()]
    averaged = [p.detach().clone() for p in trained]

    def states(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            return base.model(input_ids=ids, use_cache=False).last_hidden_state

    forward = torch.compile(states, dynamic=False) if device == "cuda" else states
    clock, withheld, last = Clock(steps), source.validation(), round(steps * options.calm)
    seed = _FURTHER_SEED if options.further else 0
    for step, batch in enumerate(in_two_phases(source, calm, steps, last, seed=seed)):
        set_rate(optimizer, options.rate * schedule(step, steps, warmup=min(300, steps // 10 + 1)))
        ids, utterance, query, start, end = tensors(batch, slice(None), device)
        loss, right = probe_loss(forward(ids), heads, utterance, query, torch.stack([start, end]))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(averaged, [p.detach() for p in trained], max(1 / (step + 1), 1 / 500))
        if step % 50 == 0:
            clock.show(step, loss=loss.item(), right=right.item())
        if step % 500 == 499 or step == steps - 1:
            # of the averaged weights, and saved each time: a machine may be gone before the last step
            last_trained = swap(trained, averaged)
            model.eval()
            print(f"step {step} validation {validate(states, heads, withheld, device)}", flush=True)
            save_probe(model, heads, out)
            model.train()
            swap(trained, last_trained)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["tokenizer", "base", "probe"])
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--wordnet", type=Path, help="folder with data.noun")
    parser.add_argument(
        "--calm", type=float, default=CALM_SHARE, help="share of the probe's steps at the end without noise"
    )
    parser.add_argument("--targets", choices=list(TARGETS), default="all", help="modules that LoRA adapts")
    parser.add_argument("--further", type=Path, help="folder with adapter and heads that the probe's training starts from")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the probe's peak learning rates")
    arguments = parser.parse_args()
    rough = partial(disturbance, arguments.words, arguments.wordnet)
    if arguments.stage == "tokenizer":
        make_tokenizer(rough(), arguments.out)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    tokenizer = arguments.out / "base"
    with ExitStack() as stack:

        def source(disturbed: Callable[[], Disturbance]) -> Source:
            return stack.enter_context(closing(Source(tokenizer, disturbed, processes=arguments.processes)))

        if arguments.stage == "base":
            train_base(source(rough), arguments.out, steps=arguments.steps or BASE_STEPS, device=device)
        else:
            calm = source(partial(rough, calm=True))
            train_probe(source(rough), calm, arguments.out, device=device, options=arguments)


if __name__ == "__main__":
    main()
