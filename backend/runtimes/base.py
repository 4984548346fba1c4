"""What every runtime promises: token ids in, last hidden states out, checked at both ends."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import BackendError, InputError, PrerequisiteError, RuntimeFault
from backend.runtimes.canary import CANARY_IDS, relative_difference

if TYPE_CHECKING:
    from torch import Tensor


class Engine(StrEnum):
    """Who computes the hidden states."""

    HF = "hf"
    VLLM = "vllm"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """All that decides what a runtime answers; equal specs share one live runtime."""

    name: str  # hf-bf16, vllm-awq, ...; also its label on screen
    engine: Engine
    model: str  # directory or hub id of the checkpoint
    dtype: str  # bfloat16, float16 or float32
    adapter: str | None = None  # PEFT directory
    urls: tuple[str, ...] = ()  # servers already running; empty: the pool starts one
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    max_tokens: int = 2048
    remote_model: str = "base"  # the server's name of the base model
    remote_lora: str = "probe"  # the server's name of the adapter
    recording: str = ""  # file of a recorded runtime
    max_lora_rank: int = 16
    cuda_graphs: bool = False  # of a managed vLLM server; see vllm_cuda.py


@dataclass(frozen=True, slots=True)
class ForwardOptions:
    """The two toggles; both are chosen per call and never reload a runtime."""

    normalize: bool = False  # divide each token's state by its L2 norm
    lora: bool = True  # adapter on


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What a live runtime turned out to be."""

    device: str  # "cpu", "NVIDIA H200", a URL without credentials
    dtype: str
    d_model: int
    max_tokens: int
    has_adapter: bool
    versions: tuple[tuple[str, str], ...] = ()  # package and version


class Runtime(ABC):
    """A loaded model. `forward` may be called from several threads; options never leak between calls.

    Subclasses implement `_forward` and `_close`; the checks stay here, so that no adapter can drift from them.
    """

    def __init__(self, spec: RuntimeSpec, info: RuntimeInfo) -> None:
        self.spec = spec
        self.info = info
        self.lost = threading.Event()  # set when what computes is gone and only a new load can help
        self.log: Path | None = None  # where its server writes
        self.lost_reason = ""  # how that was noticed, where it is more than a process that ended
        self._closed = False
        self._known: Tensor | None = None  # the first answer to the known request

    def forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        """Compute last hidden states, after the final norm.

        Args:
            ids: token ids of each prompt; none empty, none longer than ``info.max_tokens``.
            options: the two toggles.

        Returns:
            One CPU tensor ``[n_tokens, d_model]`` for each prompt, in order, finite; in the runtime's own
            dtype, or float32 where normalised.

        Raises:
            InputError: ids that the model does not take, or LoRA asked of a runtime without adapter.
            PrerequisiteError: the runtime was closed.
            RuntimeFault: an answer that must not be scored (count, shape, NaN) or none at all.
        """
        if self._closed:
            raise PrerequisiteError(f"{self.spec.name} was unloaded", remedy="Load it again.")
        if not ids:
            return []
        self._check_ids(ids)
        if options.lora and not self.info.has_adapter:
            raise InputError(f"{self.spec.name} has no adapter", remedy="Turn LoRA off, or add an adapter to the bundle.")
        try:
            states = self._forward(ids, options)
            self._check_states(ids, states)
        except BackendError as error:
            if isinstance(error, RuntimeFault):
                self._distrust()
            raise
        except Exception as error:
            # an engine's own error, such as no memory left, belongs to its lane and must not take the page down
            raise RuntimeFault(
                f"{self.spec.name} failed",
                found=f"{type(error).__name__}: {str(error).split(chr(10))[0]}"[:200],
                remedy="Unload it, then load it again; with shorter texts or fewer runtimes if memory ran out.",
            ) from error
        return states

    def canary_drift(self) -> float:
        """Return how far the answer to the known request is from the first one, relatively; raises as `forward` does."""
        states = self.forward([CANARY_IDS], ForwardOptions(lora=self.info.has_adapter))[0]
        if self._known is None:
            self._known = states
            states = self.forward([CANARY_IDS], ForwardOptions(lora=self.info.has_adapter))[0]
        return relative_difference(states, self._known)

    def close(self) -> None:
        """Release the model; calling it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._close()

    @abstractmethod
    def _forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _distrust(self) -> None:  # noqa: B027 - a hook: most runtimes have nobody to doubt
        """Note that an answer failed; whoever answers elsewhere has to prove itself before the next one counts."""

    def _check_ids(self, ids: Sequence[Sequence[int]]) -> None:
        longest = max(len(row) for row in ids)
        if longest > self.info.max_tokens:
            raise InputError(
                f"{self.spec.name} takes at most {self.info.max_tokens} tokens", found=f"{longest}", remedy="Shorten it."
            )
        if min(len(row) for row in ids) == 0:
            raise InputError("A prompt without tokens", remedy="Give every prompt at least one token.")

    def _check_states(self, ids: Sequence[Sequence[int]], states: Sequence[Tensor]) -> None:
        shapes = [tuple(rows.shape) for rows in states]
        expected = [(len(row), self.info.d_model) for row in ids]
        if shapes != expected:
            at = next((i for i, pair in enumerate(zip(shapes, expected, strict=False)) if pair[0] != pair[1]), len(shapes))
            raise RuntimeFault(
                f"{self.spec.name} broke the token contract: one row of hidden states per token",
                found=f"{len(shapes)} results, shape {shapes[at : at + 1]} where {expected[at : at + 1]} was due",
                remedy="Check that server, base model and tokenizer belong together.",
            )
        if not _all_finite(states):
            raise RuntimeFault(
                f"{self.spec.name} answered with NaN or infinity",
                found="non-finite hidden states",
                remedy="Check its dtype and checkpoint; nothing was scored.",
            )


def _all_finite(states: Sequence[Tensor]) -> bool:
    import torch

    return bool(torch.cat(list(states)).isfinite().all())  # one call: a batch of short prompts takes a call each otherwise
