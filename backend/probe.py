"""Hidden states to slot predictions, all slots of all prompts of a batch at once.

With query ``q = h[query]``: null logits ``W q + b``; start score of utterance token i is
``(W_start q) . h_i / sqrt(d)``, end score likewise. Upstream decodes start and end apart and sets
``end = start`` where ``end < start``; joint decoding takes the best pair with ``start <= end``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import RuntimeFault
from backend.heads import Heads, load_heads
from backend.prompt import Prompt, PromptBuilder, Span

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-12  # least norm that torch's normalize divides by


class Decoding(StrEnum):
    """How start and end scores become a span."""

    UPSTREAM = "upstream"
    JOINT = "joint"


@dataclass(frozen=True, slots=True)
class SlotPrediction:
    """What the probe read for one slot."""

    slot: str
    present: bool
    null_logits: tuple[float, float]  # present, absent
    pointer: Span  # prompt tokens the pointer chose, also where the slot is absent
    pointer_value: str  # decoded text of `pointer`
    char_span: Span  # code points of the utterance under `pointer`
    start_score: float
    end_score: float
    start_margin: float  # best start score minus the next best; infinite with one token
    end_margin: float

    @property
    def value(self) -> str | None:
        """The decoded value, or None where the slot is absent."""
        return self.pointer_value if self.present else None

    @property
    def span(self) -> Span | None:
        """Prompt tokens of the value, or None where the slot is absent."""
        return self.pointer if self.present else None

    @property
    def null_margin(self) -> float:
        """Present logit minus absent logit; positive means present."""
        return self.null_logits[0] - self.null_logits[1]


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw head outputs of one prompt, for display and diagnosis."""

    null_logits: Tensor  # [n_slots, 2]
    start: Tensor  # [n_slots, n_utterance_tokens]
    end: Tensor  # [n_slots, n_utterance_tokens]


@dataclass(frozen=True, slots=True)
class BatchScores:
    """What the heads make of the raw states of a batch, float32, on the device that scores batches.

    Dot products, so normalised states need none of their own: these are divided by the norms.
    """

    null: Tensor  # [B, S, 2], without the bias; S slots, fewer in some prompts
    pointers: Tensor  # [2, B, S, U], start and end; minus infinity where a prompt has fewer utterance tokens
    query_norms: Tensor  # [B, S]
    token_norms: Tensor  # [B, U]

    def normalized(self) -> BatchScores:
        """Return what the heads would make of the same states, each divided by its L2 norm."""
        queries, tokens = self.query_norms.clamp_min(_EPS)[..., None], self.token_norms.clamp_min(_EPS)[:, None]
        return replace(self, null=self.null / queries, pointers=self.pointers / (queries * tokens))


class Probe:
    """The two heads and the tokenizer that turns spans into values. Holds no state between calls.

    `heads` are on the CPU, for display and diagnosis. Batches go to the GPU where there is one: heads of 4,096 are 134 MB,
    which a CPU reads from memory for every batch.
    """

    def __init__(self, heads: Heads, builder: PromptBuilder) -> None:
        self.heads = heads
        self.builder = builder
        self._device = _batch_device()
        self._batch_heads = heads.to(self._device)

    @classmethod
    def load(cls, path: Path, *, builder: PromptBuilder) -> Probe:
        """Read the heads of a bundle; raises `BundleError` as `load_heads` does."""
        return cls(load_heads(path), builder)

    def scores(self, prompt: Prompt, states: Tensor) -> Scores:
        """Head outputs for one prompt's states ``[n_tokens, d_model]``."""
        self._check_shape(prompt, states)
        _check_finite(states)
        rows = states.float()
        queries = rows[list(prompt.query_positions)]
        tokens = rows[prompt.utterance_span.start : prompt.utterance_span.end]
        start, end = self.heads.pointer_queries(queries) @ tokens.T
        return Scores(null_logits=self.heads.null_logits(queries), start=start, end=end)

    def predict(
        self, prompt: Prompt, states: Tensor, *, decoding: Decoding = Decoding.UPSTREAM
    ) -> tuple[SlotPrediction, ...]:
        """Predictions of one prompt, in slot order; `states` is ``[n_tokens, d_model]``.

        Raises:
            RuntimeFault: if the states do not fit the prompt or the heads, or hold NaN.
        """
        return self.predict_batch([prompt], [states], decoding=decoding)[0]

    def predict_batch(
        self, prompts: Sequence[Prompt], states: Sequence[Tensor], *, decoding: Decoding = Decoding.UPSTREAM
    ) -> list[tuple[SlotPrediction, ...]]:
        """Predictions of many prompts, in their order, from ``[n_tokens, d_model]`` each; raises as `predict` does."""
        return self.predict_scored(prompts, self.score_batch(prompts, states), decoding=decoding) if prompts else []

    def score_batch(self, prompts: Sequence[Prompt], states: Sequence[Tensor]) -> BatchScores:
        """Score ``[n_tokens, d_model]`` states of each prompt, all at once; raises as `predict` does."""
        import torch

        for prompt, rows in zip(prompts, states, strict=True):
            self._check_shape(prompt, rows)
        spans = [prompt.utterance_span for prompt in prompts]
        pairs = list(zip(prompts, spans, states, strict=True))
        queries = self._batch([rows[list(prompt.query_positions)] for prompt, _, rows in pairs])
        tokens = self._batch([rows[span.start : span.end] for _, span, rows in pairs])
        lengths = torch.tensor([len(span) for span in spans], device=tokens.device)
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        pointers = self._batch_heads.pointer_queries(queries) @ tokens.transpose(1, 2)
        pointers.masked_fill_(padding[:, None], float("-inf"))
        query_norms, token_norms = queries.norm(dim=-1), tokens.norm(dim=-1)
        _check_finite(query_norms, token_norms)  # of every row that is read; a runtime has looked at the others
        return BatchScores(queries @ self._batch_heads.null_weight.T, pointers, query_norms, token_norms)

    def _batch(self, rows: list[Tensor]) -> Tensor:
        """Pad ``[n, d]`` each to ``[B, n, d]``, float32, where batches are scored; a GPU gets them in the engine's type."""
        from torch.nn.utils.rnn import pad_sequence

        return pad_sequence(rows, batch_first=True).to(self._device).float()

    def predict_scored(
        self, prompts: Sequence[Prompt], scores: BatchScores, *, decoding: Decoding = Decoding.UPSTREAM
    ) -> list[tuple[SlotPrediction, ...]]:
        """Decode the scores of prompts, from `score_batch`, in their order."""
        chosen = _decode(*scores.pointers, decoding=decoding)
        lists = [column.tolist() for column in (scores.null + self._batch_heads.null_bias, *chosen)]
        return [self._row_predictions(prompt, [column[i] for column in lists]) for i, prompt in enumerate(prompts)]

    def _row_predictions(self, prompt: Prompt, columns: list[Any]) -> tuple[SlotPrediction, ...]:
        first = prompt.utterance_span.start
        predictions = []
        for name, null, start, end, scores in zip(prompt.slot_names, *columns, strict=False):
            pointer = Span(first + int(start), first + int(end) + 1)
            predictions.append(
                SlotPrediction(
                    slot=name,
                    present=null[0] >= null[1],
                    null_logits=(null[0], null[1]),
                    pointer=pointer,
                    pointer_value=self.builder.decode_span(prompt, pointer),
                    char_span=prompt.char_span(pointer),
                    start_score=scores[0],
                    end_score=scores[1],
                    start_margin=scores[2],
                    end_margin=scores[3],
                )
            )
        return tuple(predictions)

    def _check_shape(self, prompt: Prompt, states: Tensor) -> None:
        expected = (len(prompt.ids), self.heads.d_model)
        if tuple(states.shape) != expected:
            raise RuntimeFault(
                "Hidden states do not fit the prompt and the heads",
                found=f"{list(states.shape)}, expected {list(expected)}",
                remedy="Check that base model, heads and tokenizer belong together.",
            )


def _batch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_finite(*values: Tensor) -> None:
    if not all(bool(each.isfinite().all()) for each in values):
        raise RuntimeFault(
            "Hidden states hold NaN or infinity",
            found="non-finite values",
            remedy="Check the dtype and the checkpoint of this runtime.",
        )


def _decode(start: Tensor, end: Tensor, *, decoding: Decoding) -> tuple[Tensor, Tensor, Tensor]:
    """Indices ``[B, S]`` of start and end, and ``[B, S, 4]``: both scores and both margins."""
    import torch

    if decoding is Decoding.JOINT:
        # the best start at or before each end, then the best end
        best_start, where = start.cummax(dim=-1)
        last = (best_start + end).argmax(dim=-1)
        first = where.gather(-1, last[..., None]).squeeze(-1)
    else:
        first = start.argmax(dim=-1)
        last = torch.maximum(first, end.argmax(dim=-1))
    margins = [_margin(scores) for scores in (start, end)]
    at = [scores.gather(-1, index[..., None]).squeeze(-1) for scores, index in ((start, first), (end, last))]
    return first, last, torch.stack([*at, *margins], dim=-1)


def _margin(scores: Tensor) -> Tensor:
    if scores.shape[-1] < 2:
        return scores.new_full(scores.shape[:-1], float("inf"))
    best = scores.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]
