"""Many people at once over real websockets: ``python -m benchmarks.sessions [--sessions N] [--reruns M]``.

The app serves the demo's HF runtime. N sessions type texts of their own and flip toggles at random, M times each, all at
once. Every answer is held against what the same text gives alone in this process: another session's words, spans,
toggles or numbers in it is cross-talk. Exit code 1 where there is any, or a traceback.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from backend.bundle import DEMO, load_bundle
from backend.inference import RuntimeRun, run
from backend.pool import Pool
from backend.runtimes.base import ForwardOptions
from backend.schema import load_schemas
from benchmarks.measuring import machine
from benchmarks.websocket_client import Session
from tests.browser.serving import serve_process

ROOT = Path(__file__).resolve().parent.parent
FUNCTION, RUNTIME = "book_flight", "hf-bf16"
START_S = 240.0
_CITIES = ("Boston", "Seattle", "Oslo", "New York", "Kyoto", "Nairobi", "Lima", "Rome", "Paris", "Quito")
_PATIENCE = 5
_MARGIN = 0.05  # of a null logit; threads of another process round otherwise


@dataclass(frozen=True, slots=True)
class Answer:
    """What one session asked and what its page then held."""

    text: str
    options: ForwardOptions
    lane: str  # its visible letters
    labels: tuple[str, str]  # of the toggles
    values: dict[str, str]  # by slot, as the table shows them
    margins: dict[str, float]
    tracebacks: tuple[str, ...]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the app and yield its address once the demo's first runtime is loaded."""
    with serve_process(folder, limit_s=START_S) as (url, _):
        deadline = time.monotonic() + START_S
        with Session(url) as first:
            first.run()
            while 'class="lane"' not in first.html():
                if time.monotonic() > deadline:
                    raise TimeoutError("the demo's runtime did not load")
                time.sleep(0.5)
                first.run()
        yield url


def talk(url: str, number: int, *, reruns: int, together: threading.Barrier) -> list[Answer]:
    """Be one person: type and flip, and note what the page holds each time."""
    rng, answers = random.Random(number), []
    with Session(url) as session:
        session.run()
        together.wait()
        text, normalize, lora = "", False, True
        for turn in range(reruns):
            if not text or rng.random() < 0.6:
                origin, destination = rng.sample(_CITIES, 2)
                text = f"person{number} turn{turn}: fly me from {origin} to {destination} on {rng.randint(1, 28)} May"
            normalize, lora = normalize ^ (rng.random() < 0.5), lora ^ (rng.random() < 0.4)
            for _ in range(_PATIENCE):
                session.run(utterance=text, normalize=normalize, lora=lora)
                if 'class="lane"' in session.html():
                    break  # else the runtime was busy with others for longer than a lane may wait, and the page says so
            answers.append(_noted(session, text, ForwardOptions(normalize=normalize, lora=lora)))
    return answers


def _noted(session: Session, text: str, options: ForwardOptions) -> Answer:
    drawn = re.search(r'<div class="lane".*?</div>', session.html(), re.DOTALL)
    lane = re.sub(r"<sub.*?</sub>", "", drawn.group() if drawn else "", flags=re.DOTALL)
    table = next((t for t in session.tables() if "slot" in t), None)
    rows = [] if table is None else table.to_dict("records")
    return Answer(
        text,
        options,
        unescape(re.sub(r"<[^>]*>", "", lane)),
        (session.widget("normalize").label, session.widget("lora").label),
        {row["slot"]: row[RUNTIME] for row in rows},
        {row["slot"]: float(row[f"{RUNTIME} margin"]) for row in rows},
        tuple(session.exceptions()),
    )


class Alone:
    """The same texts through the same runtime, one after the other, with nobody else there."""

    def __init__(self, pool: Pool) -> None:
        bundle = load_bundle(DEMO)
        self._probe, self._schema = bundle.load_probe(), load_schemas(bundle.schemas)[FUNCTION]
        self._runtime = pool.get(bundle.runtime(RUNTIME))

    def wrong(self, answer: Answer) -> str:
        """Say what in an answer is not its own, or nothing."""
        if answer.tracebacks:
            return f"traceback: {answer.tracebacks[0]}"
        found = run(self._probe, self._probe.builder.build(self._schema, answer.text), self._runtime, answer.options)
        if answer.lane != answer.text:
            return f"the lane holds {answer.lane!r}"
        expected = (
            f"L2 {'on' if answer.options.normalize else 'off'}, mean norm {found.norms.mean:.2f}",
            f"LoRA {'on' if answer.options.lora else 'off'}",
        )
        if answer.labels != expected:
            return f"toggles say {answer.labels}, expected {expected}"
        return self._wrong_slots(answer, found)

    def _wrong_slots(self, answer: Answer, found: RuntimeRun) -> str:
        for slot in found.slots:
            margin = answer.margins.get(slot.slot, float("inf"))
            if abs(margin - slot.null_margin) > _MARGIN + 0.005:
                return f"{slot.slot} has margin {margin}, alone {slot.null_margin:.2f}"
            value = slot.value if slot.present else "(absent)"
            if answer.values[slot.slot] != value and abs(slot.null_margin) > _MARGIN:
                return f"{slot.slot} is {answer.values[slot.slot]!r}, alone {value!r}"
        return ""


def crosstalk(url: str, *, sessions: int, reruns: int) -> list[str]:
    """Let sessions talk at once and return what was not their own, one line an answer."""
    together = threading.Barrier(sessions)
    with ThreadPoolExecutor(sessions) as threads:
        talks = [threads.submit(talk, url, n, reruns=reruns, together=together) for n in range(sessions)]
        answers = [answer for each in talks for answer in each.result()]
    if len(answers) != sessions * reruns:
        raise RuntimeError(f"{len(answers)} answers of {sessions * reruns}")
    with Pool() as pool:
        alone = Alone(pool)
        return [f"{answer.text!r}: {wrong}" for answer in answers if (wrong := alone.wrong(answer))]


def main() -> int:
    """Print what was seen; 1 after cross-talk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--reruns", type=int, default=20)
    arguments = parser.parse_args()
    print(f"sessions: {machine()}", flush=True)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
        started = time.monotonic()
        found = crosstalk(url, sessions=arguments.sessions, reruns=arguments.reruns)
    print(f"{arguments.sessions} sessions x {arguments.reruns} reruns in {time.monotonic() - started:.0f} s")
    print(f"cross-talk: {len(found)}", *found[:20], sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
