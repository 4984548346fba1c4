"""Holds the flip band and the certificate to every example of a set: ``python -m benchmarks.flips [--runtime NAME]``.

What is compared, on the demo's evaluation set and each runtime's own raw states ``H`` (float32 on the CPU):

1. *Exactly*: presence on ``H`` against presence on ``H / |H|`` flips where and only where the band says so
   (``s b < 0`` and ``|b| < |s| < n |b|``), and a pointer whose certificate holds does not move. No tolerance.
2. *On the engine*: the same against states that the engine itself normalised, in its own dtype. Its states equal
   ``H / |H|`` but for rounding, so decisions within that rounding of a tie are set apart and counted: a null margin, or a
   lead of the best score, no larger than what the two differ by in that very score.

Prints exceptions, which must be none, and exits with 3 if there is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from backend.bundle import DEMO, load_bundle
from backend.geometry import NullGeometry, PointerCertificate, null_geometry, pointer_certificates
from backend.norms import normalize
from backend.pool import Pool
from backend.probe import Probe, SlotPrediction
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime
from backend.scoring import load_examples

_BATCH = 64


@dataclass
class Found:
    """What happened to the slots of a set."""

    slots: int = 0
    flips: int = 0
    certified: int = 0
    moves: int = 0  # pointers that normalising moved
    near_ties: int = 0  # decisions of the engine within its rounding
    exceptions: list[str] = field(default_factory=list)


def measure(probe: Probe, runtime: Runtime, prompts: Sequence[Prompt]) -> Found:
    """Compare every slot of every prompt."""
    found = Found()
    for at in range(0, len(prompts), _BATCH):
        batch = prompts[at : at + _BATCH]
        ids = [prompt.ids for prompt in batch]
        raw, engine = runtime.forward(ids, ForwardOptions()), runtime.forward(ids, ForwardOptions(normalize=True))
        for prompt, states, theirs in zip(batch, raw, engine, strict=True):
            _compare(probe, prompt, states.float(), theirs.float(), found)
    return found


def _compare(probe: Probe, prompt: Prompt, states: Tensor, engine: Tensor, found: Found) -> None:
    unit = normalize(states)
    before, after, theirs = (probe.predict(prompt, rows) for rows in (states, unit, engine))
    geometry, certificates = null_geometry(probe, prompt, states), pointer_certificates(probe, prompt, states)
    rounding = _rounding(probe, prompt, unit, engine)
    for slot in zip(before, after, theirs, geometry, certificates, rounding, strict=True):
        _slot(*slot, found=found, where=prompt.utterance[:60])


def _rounding(probe: Probe, prompt: Prompt, unit: Tensor, engine: Tensor) -> list[tuple[float, float]]:
    """Return for each slot what the engine's rounding moves null margin and pointer scores by, at most."""
    ours, theirs = probe.scores(prompt, unit), probe.scores(prompt, engine)
    null = ((ours.null_logits - theirs.null_logits).abs().sum(dim=-1)).tolist()
    start, end = ((getattr(ours, e) - getattr(theirs, e)).abs().amax(dim=-1) for e in ("start", "end"))
    return list(zip(null, start.maximum(end).tolist(), strict=True))


def _slot(
    before: SlotPrediction,
    after: SlotPrediction,
    theirs: SlotPrediction,
    null: NullGeometry,
    certificate: PointerCertificate,
    rounding: tuple[float, float],
    *,
    found: Found,
    where: str,
) -> None:
    in_band = null.weight_part * null.bias_part < 0 and 1 < null.ratio < null.norm
    found.slots += 1
    found.flips += before.present != after.present
    found.certified += certificate.certified
    found.moves += before.pointer != after.pointer
    problems = []
    if not in_band == null.flips == (before.present != after.present):
        problems.append("flip band")
    if certificate.certified and before.pointer != after.pointer:
        problems.append("certificate")
    null_tie = abs(after.null_margin) <= rounding[0]
    pointer_tie = min(after.start_margin, after.end_margin) <= 2 * rounding[1]
    found.near_ties += null_tie or pointer_tie
    if not null_tie and in_band != (before.present != theirs.present):
        problems.append("flip band on the engine")
    if certificate.certified and not pointer_tie and before.pointer != theirs.pointer:
        problems.append("certificate on the engine")
    found.exceptions += [f"{problem}: {before.slot} of {where!r}" for problem in problems]


def main() -> int:
    """Measure each runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", action="append", help="default: the bundle's HF runtimes")
    parser.add_argument("--limit", type=int, help="examples; default: all")
    arguments = parser.parse_args()
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    prompts = load_examples(bundle, probe.builder, limit=arguments.limit)[1]
    names = arguments.runtime or [spec.name for spec in bundle.runtimes if spec.engine == "hf"]
    exceptions = 0
    with Pool() as pool:
        for name in names:
            found = measure(probe, pool.get(bundle.runtime(name)), prompts)
            exceptions += len(found.exceptions)
            print(
                f"{name}: {len(prompts)} examples, {found.slots} slots; {found.flips} flip, {found.certified} pointers "
                f"certified, {found.moves} moved; {found.near_ties} within the engine's rounding; "
                f"{len(found.exceptions)} exceptions"
            )
            print("\n".join(found.exceptions[:20]))
            pool.unload(bundle.runtime(name))
    return 3 if exceptions else 0


if __name__ == "__main__":
    sys.exit(main())
