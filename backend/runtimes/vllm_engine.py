"""What runs inside vLLM's engine process where ``cuda_graphs = true``; imported there by name, and nowhere else.

Two of vLLM's defaults keep a GPU waiting (`benchmarks.scale`): prompts of one request reach the scheduler one by one, so
that the first is computed alone and the others wait for it; and for pooling models a forward pass is captured in pieces,
with attention launched in between, one layer after the other.
Written from the sources of vLLM 0.25.1 and 0.32, run with 0.25.1 on an H200 and, the scheduler, with 0.32 on a CPU.
"""

from __future__ import annotations

import re
import time
from typing import Any

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request
from vllm.v1.worker.gpu_worker import Worker

GATHER_S = 0.05  # most that a request waits for its other prompts; 64 prompts arrive within 9 ms
_GROUP = re.compile(r"(?P<group>.*-of(?P<size>\d+))-\d+-")


class Groups:
    """Requests to ``/pooling`` of which some prompts have not arrived.

    vLLM names the prompts of a request by its ``X-Request-Id`` and their number; ours end in ``-of`` and how many
    prompts they have. Requests of others are never waited for.
    """

    def __init__(self) -> None:
        self._missing: dict[str, tuple[int, float]] = {}  # how many, and until when they are waited for

    def arrived(self, request_id: str, now: float) -> None:
        """Note a prompt; `now` in seconds of a monotonic clock."""
        named = _GROUP.match(request_id)
        if named is None:
            return
        left, until = self._missing.pop(named["group"], (int(named["size"]), now + GATHER_S))
        if left > 1:
            self._missing[named["group"]] = (left - 1, until)

    def are_whole(self, now: float) -> bool:
        """Tell whether nothing is worth waiting for; prompts that are overdue (aborted, refused) are given up."""
        self._missing = {group: each for group, each in self._missing.items() if each[1] > now}
        return not self._missing


class GatheringScheduler(Scheduler):
    """Begins with a request when all of its prompts are there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups = Groups()

    def add_request(self, request: Request) -> None:
        """Queue a prompt."""
        super().add_request(request)
        self._groups.arrived(request.request_id, time.monotonic())

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Return the next batch, an empty one while prompts are under way: the engine asks again a millisecond later."""
        if self._groups.are_whole(time.monotonic()):
            return super().schedule(*args, **kwargs)
        return SchedulerOutput.make_empty()


class FullGraphWorker(Worker):
    """Captures whole forward passes, attention included, where the attention backend can (FlashAttention 3 can).

    vLLM sets pooling models back to pieces, since some have attention that looks both ways. Ours look back only, and
    their states are compared with those of HF by `backend check`. Where the backend cannot, vLLM goes back to pieces.
    Passes write to the same memory one after the other: rows are copied out before the next one begins, and only batches
    too large for a graph cut a prompt in two.
    """

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL
        super().__init__(vllm_config, *args, **kwargs)
