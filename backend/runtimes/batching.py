"""Batches by token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def token_budget_batches(lengths: Sequence[int], *, budget: int, most: int = 1024) -> Iterator[list[int]]:
    """Indices of prompts in batches of at most `budget` padded tokens and `most` prompts, longest first.

    Longest first makes the largest allocation the first one, and puts like lengths together. A prompt
    longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        size = min(most, max(1, budget // lengths[order[start]]))
        yield order[start : start + size]
        start += size
