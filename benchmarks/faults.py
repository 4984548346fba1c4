"""Scores verdicts on injected faults: ``python -m benchmarks.faults [--json] [--seeds N] [--engines]``.

Faults are put, alone and in pairs, into FP32 deployments of the demo and of random bundles (three architectures, two
kinds of tokenizer): broken files for real, the others by a wrapper. Each verdict is about one deployment on one prompt and
is right if it names exactly the faults that are there. With ``--engines`` real vLLM servers join, well and broken. Healthy
deployments are judged on three prompts each, and one named fault is a false alarm. Exit code 3 below 95 % of single faults,
85 % of pairs, or with any false alarm.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from backend.arms import Arm
from backend.diagnosis import diagnose
from backend.diagnosis_types import FAULTS, Cause, Diagnosis
from backend.runtimes.base import Runtime
from backend.state_cache import StateCache
from benchmarks import answer_faults
from benchmarks.deployments import Site, build, demo_site, file_cases, healthy_arms, pairs, random_sites, twins
from benchmarks.engine_faults import engine_cases
from benchmarks.faulty import CASES
from benchmarks.measuring import machine, versions

ABOUT_ANSWERS = frozenset({Cause.RAW_GOLD, Cause.LABEL_WRONG, Cause.DECODING, Cause.NULL_THRESHOLD, Cause.MODEL_ERROR})
Named = frozenset[Cause]


def named(found: Diagnosis) -> Named:
    """Return what a reader would take away: faults of the deployment, and causes about single answers."""
    return frozenset(f.cause for f in found.faults) | {v.cause for v in found.verdicts if v.cause in ABOUT_ANSWERS}


@dataclass
class Scores:
    """What was injected against what was named."""

    single: dict[str, Counter[Named]] = field(default_factory=lambda: defaultdict(Counter))
    expected: dict[str, Named] = field(default_factory=dict)
    paired: Counter[tuple[Named, Named]] = field(default_factory=Counter)
    healthy: Counter[Named] = field(default_factory=Counter)
    alarms: list[str] = field(default_factory=list)

    def add_single(self, name: str, expected: Named, found: Iterable[Named]) -> None:
        """Count one deployment's verdicts."""
        self.expected[name] = expected
        self.single[name].update(found)

    def add_healthy(self, name: str, found: Iterable[Named]) -> None:
        """Count one deployment: any fault on any prompt is an alarm."""
        faults: Named = frozenset().union(*(causes & FAULTS for causes in found))
        self.healthy[faults] += 1
        if faults:
            self.alarms.append(f"{name}: {_text(faults)}")

    def shares(self) -> dict[str, tuple[int, int]]:
        """Return how many were right, of how many."""
        single = sum(counts[self.expected[name]] for name, counts in self.single.items())
        both = sum(k for (wanted, found), k in self.paired.items() if wanted == found)
        return {
            "single": (single, sum(counts.total() for counts in self.single.values())),
            "pairs": (both, self.paired.total()),
            "false alarms": (len(self.alarms), self.healthy.total()),
        }


def judge(
    site: Site, candidate: Arm, prompts: int, cache: StateCache, *, others: Sequence[Runtime] = ()
) -> Iterable[Named]:
    """Yield what is named on each prompt."""
    for prompt in site.prompts[:prompts]:
        yield named(diagnose(site.probe, prompt, site.baseline, candidate, others=others, cache=cache))


def score_site(site: Site, folder: Path, scores: Scores, *, prompts: int) -> None:
    """Inject every fault and every pair into one bundle."""
    files = file_cases(site, folder)
    cache = StateCache()
    for case in CASES:
        scores.add_single(case.name, frozenset({case.cause}), judge(site, build(site, [], [case]), prompts, cache))
    for broken in files:
        expected = frozenset({broken.cause})
        arm = build(site, [broken], [])
        scores.add_single(broken.name, expected, judge(site, arm, prompts, cache, others=twins(arm)))
        remote = build(site, [broken], [], seen=False)
        scores.add_single(f"{broken.name}, files unseen", expected, judge(site, remote, prompts, cache))
    for answer in answer_faults.CASES:
        for prompt in site.prompts[:prompts]:
            if (found := answer.inject(site, prompt, site.baseline, cache)) is not None:
                scores.add_single(answer.name, frozenset({answer.cause}), [named(found)])
    for changed, wrappers, expected in pairs(files):
        arm = build(site, changed, wrappers)
        for found in judge(site, arm, 1, cache, others=twins(arm) if changed else ()):
            scores.paired[expected, found] += 1
    for case in CASES:
        for answer in answer_faults.CASES:
            arm = build(site, [], [case])
            if not case.hides and (both := answer.inject(site, site.prompts[0], arm, cache)) is not None:
                scores.paired[frozenset({case.cause, answer.cause}), named(both)] += 1


def main() -> int:
    """Print the confusion matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="random bundles per architecture and tokenizer")
    parser.add_argument("--healthy", type=int, default=200, help="healthy deployments")
    parser.add_argument("--prompts", type=int, default=4, help="prompts per single fault")
    parser.add_argument("--engines", action="store_true", help="also real vLLM servers")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small are slower on two
    scores = Scores()
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), scores, arguments)
    shares = scores.shares()
    (_print_json if arguments.json else _print)(scores, shares)
    good = _share(*shares["single"]) >= 0.95 and _share(*shares["pairs"]) >= 0.85 and not scores.alarms
    return 0 if good else 3


def run(folder: Path, scores: Scores, arguments: argparse.Namespace) -> None:
    """Score the demo, random bundles and, where asked, engines."""
    demo = demo_site(max(8, arguments.prompts))
    score_site(demo, folder / "demo", scores, prompts=arguments.prompts)
    _note(scores, "demo")
    _count_healthy(demo, scores, arguments.healthy)
    for number, site in enumerate(random_sites(folder / "random", seeds=1000, n_prompts=4)):
        if number < 6 * arguments.seeds:
            score_site(site, folder / f"faults-{site.name}", scores, prompts=arguments.prompts)
            _note(scores, site.name)
        elif scores.healthy.total() >= arguments.healthy:
            break
        _count_healthy(site, scores, arguments.healthy)
    if arguments.engines:
        cache = StateCache()
        for case in engine_cases(demo, folder / "engines"):
            found = list(judge(demo, case.arm, 3, cache))
            if case.causes:
                scores.add_single(case.name, case.causes, found)
            else:
                scores.add_healthy(case.name, found)
            _note(scores, case.name)


def _count_healthy(site: Site, scores: Scores, most: int) -> None:
    cache = StateCache()
    for name, arm in healthy_arms(site):
        if scores.healthy.total() < most:
            scores.add_healthy(name, judge(site, arm, 3, cache))


def _note(scores: Scores, name: str) -> None:
    counted = ", ".join(f"{what} {a} of {b}" for what, (a, b) in scores.shares().items())
    print(f"{name}: {counted}", file=sys.stderr, flush=True)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _text(causes: Named) -> str:
    return " + ".join(sorted(causes)) or "nothing"


def _print(scores: Scores, shares: dict[str, tuple[int, int]]) -> None:
    for name, counts in scores.single.items():
        right, others = counts[scores.expected[name]], _others(counts, scores.expected[name])
        print(f"{name:44s} {right:3d} of {counts.total():3d}  as {_text(scores.expected[name])}{others}")
    missed: dict[Named, Counter[Named]] = defaultdict(Counter)
    for (wanted, found), k in scores.paired.items():
        missed[wanted][found] += k
    for wanted, counts in sorted(missed.items(), key=lambda pair: _text(pair[0])):
        print(f"{_text(wanted):72s} {counts[wanted]:3d} of {counts.total():3d}{_others(counts, wanted)}")
    for alarm in scores.alarms:
        print(f"false alarm: {alarm}")
    for what, (part, whole) in shares.items():
        print(f"{what}: {part} of {whole} ({100 * _share(part, whole):.1f} %)")
    print(f"machine: {machine()}")


def _others(counts: Counter[Named], expected: Named) -> str:
    rest = [f"{_text(causes)} ({k})" for causes, k in counts.most_common() if causes != expected]
    return f"; else {', '.join(rest)}" if rest else ""


def _print_json(scores: Scores, shares: dict[str, tuple[int, int]]) -> None:
    listed: Callable[[Counter[Named]], dict[str, int]] = lambda counts: {_text(c): k for c, k in counts.items()}  # noqa: E731
    report = {
        "machine": machine(),
        "versions": versions(),
        "shares": {what: {"count": part, "n": whole} for what, (part, whole) in shares.items()},
        "single": {
            name: {"expected": _text(scores.expected[name]), "named": listed(counts)}
            for name, counts in scores.single.items()
        },
        "pairs": [{"expected": _text(a), "named": _text(b), "n": k} for (a, b), k in scores.paired.items()],
        "false_alarms": scores.alarms,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    sys.exit(main())
