"""Awkward texts through everything that takes text: ``python -m benchmarks.texts [--count N] [--seed S]``.

N texts made by Hypothesis and the curated ones go through the tokenizer, ``python -m backend predict`` and the Playground;
the awkward pieces by themselves also through ``diagnose``, the Diagnose page and the Norms page. The demo's HF runtime
answers. A text is answered or refused with one message; a traceback, a hang, or a value that is not the text between its
offsets is a fault. Exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import BytesIO, TextIOWrapper
from json import loads
from pathlib import Path
from unittest.mock import patch

from benchmarks.curated_texts import CURATED_KINDS, curated
from benchmarks.measuring import machine

APP = Path(__file__).resolve().parent.parent / "app.py"
HANG_S = 10.0
PIECES = frozenset(piece for kind in CURATED_KINDS.values() for piece in kind)
FUNCTIONS = ("book_flight", "set_alarm")
_PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One text that something could not take."""

    where: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {ascii(self.text[:80])}"


def generated(count: int, *, seed: int) -> list[str]:
    """Return distinct texts: any code points, surrogates included, mixed with curated pieces and plain words."""
    import hypothesis
    from hypothesis import strategies as st

    word = st.sampled_from(["fly", "from", "Oslo", "to", "Rome", "at 6:45", "(-1, -2)", "next Friday", "$20"])
    # no surrogates in most, or nearly every text would be refused
    letters = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
    anything = st.text(st.characters(exclude_categories=[]), max_size=10)
    part = st.one_of(word, letters, word, letters, st.sampled_from(sorted(PIECES)))
    text = st.lists(part, min_size=1, max_size=12).flatmap(
        lambda parts: st.sampled_from(["", " "]).map(lambda between: between.join(parts))
    )
    found: dict[str, None] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count + count // 10 + 50,  # a few come twice
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.integers(0, 19).flatmap(lambda n: anything if n == 0 else text))
    def note(made: str) -> None:
        found[made] = None

    note()
    return list(found)[:count]


class Trial:
    """Everything that takes text, loaded once."""

    def __init__(self) -> None:
        import torch

        from backend.bundle import DEMO, load_bundle
        from backend.pool import Pool
        from backend.schema import load_schemas

        torch.set_num_threads(1)
        self.bundle = load_bundle(DEMO)
        self.schemas = load_schemas(self.bundle.schemas)
        self.probe = self.bundle.load_probe()
        self.pool = Pool()
        self.faults: list[Fault] = []
        self.refused, self.slowest_s = Counter[str](), 0.0
        self.pages = {name: self._page(name) for name in ("app.py", "pages/Diagnose.py", "pages/Norms.py")}

    def check(self, text: str, *, number: int, everywhere: bool) -> None:
        """Put one text through; ``number`` chooses function and toggles."""
        function, normalize, lora = FUNCTIONS[number % 2], number % 4 > 1, number % 8 < 6
        self._timed("tokenizer", text, partial(self._tokenizer, function))
        flags = [*(["--normalize"] if normalize else []), *([] if lora else ["--no-lora"])]
        self._timed("predict", text, partial(self._predict, ["--function", function, *flags]))
        toggles = {"normalize": normalize, "lora": lora}
        self._timed("app.py", text, partial(self._show, "app.py", function, toggles))
        if everywhere:
            self._timed("diagnose", text, partial(self._diagnose, ["--function", function, *flags]))
            self._timed("pages/Diagnose.py", text, partial(self._show, "pages/Diagnose.py", function, toggles))
            self._timed("pages/Norms.py", text, partial(self._show, "pages/Norms.py", function, {}))

    def _timed(self, where: str, text: str, work: Callable[[str], str]) -> None:
        for _ in range(2):
            started = time.monotonic()
            try:
                wrong = work(text)
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:  # a PanicException of tokenizers is no Exception
                wrong = f"{type(error).__name__}: {error}"[:200]
            seconds = time.monotonic() - started
            if wrong or seconds < HANG_S:
                break
            wrong = f"{seconds:.1f} s"  # and once more: a hang of the text comes again, one of the machine does not
        self.slowest_s = max(self.slowest_s, seconds)
        if wrong:
            self.faults.append(Fault(where, wrong, text))

    def _tokenizer(self, function: str, text: str) -> str:
        from backend.errors import InputError

        try:
            prompt = self.probe.builder.build(self.schemas[function], text)
        except InputError as error:
            self.refused[error.what] += 1
            return "" if error.remedy else "refused without a remedy"
        reached = 0
        for start, end in prompt.offsets:
            if not start <= reached <= end <= len(text):
                return f"offsets [{start}, {end}) after {reached} of {len(text)} code points"
            reached = end
        span = prompt.utterance_span
        if reached != len(text) or self.probe.builder.decode(prompt.ids[span.start : span.end]) != text.strip():
            return "the tokens are not the text"
        return ""

    def _predict(self, arguments: list[str], text: str) -> str:
        code, out, err = self._command(["predict", *arguments, f"--utterance={text}", "--json"])
        if code == 2:
            return "" if err.count("\n") <= text.count("\n") + 1 and "Traceback" not in err else err[:200]
        for name, slot in loads(out)["runs"][0]["slots"].items():
            if slot["present"] and not same(text[slice(*slot["char_span"])], slot["value"]):
                return f"{name} at {slot['char_span']} is not {slot['value']!r}"
        return ""

    def _diagnose(self, arguments: list[str], text: str) -> str:
        code, out, _ = self._command(["diagnose", "--candidate", "hf-bf16", *arguments, f"--utterance={text}", "--json"])
        return "" if code == 2 or loads(out)["verdicts"] is not None else "no verdicts"

    def _command(self, arguments: list[str]) -> tuple[int, str, str]:
        from backend.cli import main

        out, err = (TextIOWrapper(BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace"))
        with self._loaded(), redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
        out.flush(), err.flush()
        printed, said = out.buffer.getvalue().decode(), err.buffer.getvalue().decode()
        if code not in (0, 2):
            raise SystemExit(f"exit code {code}: {said[:150]}")
        return code, printed, said

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        """Let commands take what is loaded already: each call of one loads everything anew."""
        from backend.bundle import Bundle
        from backend.pool import Pool

        with patch.object(Bundle, "load_probe", lambda _: self.probe), patch.object(Pool, "__exit__"):
            module = "backend.commands."
            with patch(f"{module}predict.Pool", lambda: self.pool), patch(f"{module}diagnose.Pool", lambda: self.pool):
                yield

    def _page(self, name: str):  # noqa: ANN202
        from streamlit.testing.v1 import AppTest

        page = AppTest.from_file(str(APP), default_timeout=60)
        return page if name == "app.py" else page.switch_page(name)

    def _show(self, name: str, function: str, toggles: dict[str, bool], text: str) -> str:
        page = self.pages[name]
        page.session_state["function"] = function
        # a browser sends half a surrogate pair as U+FFFD
        page.session_state["utterance"] = text.encode("utf-8", "replace").decode()
        for key, value in toggles.items():
            page.session_state[key] = value
        page.run()
        for _ in range(120):
            if page.exception:
                return f"traceback: {page.exception[0].value}"[:200]
            tables = [block for block in page.get("html") if 'class="sheet' in block.proto.body]
            if len(page.code) or len(page.dataframe) or page.info or tables:
                return ""
            time.sleep(0.25)  # the runtime loads, once
            page.run()
        return "neither an answer nor a message"


def same(shown: str, value: str) -> bool:
    """Tell whether a value is the text between its offsets.

    A pointer may begin or end within a character of several tokens; the value then shows U+FFFD where the offsets hold
    the whole character.
    """
    return shown == value or ("\ufffd" in value and value.strip("\ufffd").strip() in shown)


def _work(texts: Sequence[tuple[int, str, bool]]) -> tuple[list[Fault], Counter[str], float]:
    logging.disable(logging.WARNING)  # Streamlit's, of pages that run without a browser
    trial = Trial()
    for number, text, everywhere in texts:
        trial.check(text, number=number, everywhere=everywhere)
    trial.pool.close()
    return trial.faults, trial.refused, trial.slowest_s


def main() -> int:
    """Print what happened; 1 after a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="texts made by Hypothesis")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    chosen = curated()
    texts = [(n, text, text in PIECES) for n, text in enumerate(chosen)]
    texts += [(n, text, False) for n, text in enumerate(generated(arguments.count, seed=arguments.seed))]
    with ProcessPoolExecutor(_PROCESSES, mp_context=multiprocessing.get_context("spawn")) as processes:
        parts = list(processes.map(_work, [texts[i::_PROCESSES] for i in range(_PROCESSES)]))
    faults = [fault for part in parts for fault in part[0]]
    refused = sum((part[1] for part in parts), Counter[str]())
    print(f"texts: {machine()}")
    print(f"{len(texts) - len(chosen):,} by Hypothesis and {len(chosen)} curated in {time.monotonic() - started:.0f} s")
    print(f"refused with a message: {refused.total()}; slowest step {max(part[2] for part in parts):.2f} s")
    print(f"faults: {len(faults)}", *faults[:20], sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
