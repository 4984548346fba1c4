"""A server that answers wrongly in every way, N times each: ``python -m benchmarks.server_faults [--count N]``.

Each time a healthy server is met, asked, and then answers wrongly: the request has to end in a named error within its
deadline. Two more kinds give states of another model, after the connection broke or after silence; these must be told by
the server's known answer. A bad vector is one that comes back as states although the server does not compute it. Exit
code 1 where one does, an error comes late, or the healthy server is not believed afterwards.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from backend.errors import RuntimeFault, RuntimeTimeout
from backend.runtimes import vllm_http
from backend.runtimes.base import ForwardOptions
from backend.runtimes.vllm import VLLMRuntime
from benchmarks.lying_server import FAULTS, Server, other_model, serving, spec_of, states
from benchmarks.measuring import machine

_LATE_S = 5.0  # beyond the deadline; a machine that does much else is slow
_SILENCE_S = 0.05
AFTERWARDS = {"another model after a break": 0.0, "another model after silence": 3 * _SILENCE_S}


@dataclass(slots=True)
class Tally:
    """What became of the tries of one kind."""

    kind: str
    tries: int = 0
    bad_vectors: int = 0
    late: int = 0
    unhealed: int = 0  # the healthy server's next answer was refused

    @property
    def sound(self) -> bool:
        """Whether nothing was scored that must not be."""
        return not (self.bad_vectors or self.late or self.unhealed)


def try_kind(kind: str, *, count: int, deadline_s: float = 0.5, seed: int = 0) -> Tally:
    """Meet a server, let it answer wrongly, and heal it again, ``count`` times with other prompts."""
    tally = Tally(kind)
    with serving() as server, patch.object(vllm_http, "SILENCE_S", _SILENCE_S if kind in AFTERWARDS else 60.0):
        for number in range(count):
            runtime = _met(server, deadline_s)
            try:
                _once(server, runtime, tally, random.Random(f"{kind} {seed} {number}"), deadline_s)
            finally:
                server.fault = None
                runtime.close()
    return tally


def _met(server: Server, deadline_s: float) -> VLLMRuntime:
    """Connect; a machine that does much else may take longer than a deadline as short as this."""
    for _ in range(20):
        try:
            return VLLMRuntime.connect(spec_of(server), deadline_s=deadline_s)
        except RuntimeTimeout:
            continue
    raise RuntimeError("a healthy server is not met: the machine is too busy")


def _once(server: Server, runtime: VLLMRuntime, tally: Tally, rng: random.Random, deadline_s: float) -> None:
    ids = [[rng.randrange(1, 4000) for _ in range(rng.randint(2, 20))] for _ in range(rng.randint(2, 5))]
    tally.tries += 1
    tally.unhealed += not _healed(runtime, ids, lambda: None)  # healthy from the start
    if tally.kind in AFTERWARDS:
        if not AFTERWARDS[tally.kind]:
            server.fault = FAULTS["hangs up"][0]
            _asked(runtime, ids, lambda: None)
        time.sleep(AFTERWARDS[tally.kind])
        server.fault = other_model
    else:
        server.fault = FAULTS[tally.kind][0]
    started = time.monotonic()

    def scored() -> None:
        tally.bad_vectors += 1

    _asked(runtime, ids, scored)
    tally.late += time.monotonic() - started > deadline_s + _LATE_S
    server.fault = None
    tally.unhealed += not _healed(runtime, ids, scored)


def _healed(runtime: VLLMRuntime, ids: list[list[int]], bad: Callable[[], None]) -> bool:
    """Ask until states come back, ten times at most: a busy machine may take longer than the deadline."""
    return any(_asked(runtime, ids, bad) for _ in range(10))


def _asked(runtime: VLLMRuntime, ids: list[list[int]], bad: Callable[[], None]) -> bool:
    """Tell whether states came back; call ``bad`` where they are not what the healthy server computes."""
    try:
        found = runtime.forward(ids, ForwardOptions())
    except (RuntimeFault, RuntimeTimeout):
        return False
    if any(not np.array_equal(rows.numpy(), states(prompt)) for rows, prompt in zip(found, ids, strict=True)):
        bad()
    return True


def main() -> int:
    """Print a line a kind; 1 where a bad vector was scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="of each kind")
    arguments = parser.parse_args()
    started = time.monotonic()
    kinds = [*FAULTS, *AFTERWARDS]
    print(f"server_faults: {machine()}")
    tallies = []
    for kind in kinds:
        tallies.append(tally := try_kind(kind, count=arguments.count))
        print(
            f"{kind:30s} tries {tally.tries}  bad vectors {tally.bad_vectors}  late {tally.late}  "
            f"not healed {tally.unhealed}",
            flush=True,
        )
    bad = sum(tally.bad_vectors for tally in tallies)
    print(f"{len(kinds)} kinds x {arguments.count} in {time.monotonic() - started:.0f} s: {bad} bad vectors scored")
    return int(not all(tally.sound for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
