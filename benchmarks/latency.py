"""One utterance with all its slots, warm: ``python -m benchmarks.latency [--runtime hf-bf16] [--browser]``.

Through each runtime from token ids to decoded values, alone and with 8 sessions at once; with ``--browser``, from the
click on a toggle to the changed lane in Chromium, beside what the engine itself takes for that utterance.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.bundle import DEMO, Bundle, load_bundle
from backend.inference import run
from backend.probe import Probe
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.load import load_runtime
from backend.scoring import load_examples
from benchmarks.measuring import Report, Timing, parser, timed

SESSIONS = 8
# resolves with the milliseconds from a click on the toggle to the next painted change of the lane, be it a new element
_CLICK = """([toggle, lane]) => { window.changed = new Promise((done, failed) => {
  const shown = () => (document.querySelector(lane) || {}).innerHTML, before = shown(), started = performance.now();
  const watch = new MutationObserver(() => {
    if (shown() === before) return;
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - started));
  });
  watch.observe(document.body, {subtree: true, childList: true, characterData: true});
  setTimeout(() => failed(new Error('the lane did not change in 30 s')), 30000);
  document.querySelector(toggle + ' input').click();
}); }"""


def main() -> None:
    """Print p50 and p95 of every way to ask."""
    known = parser(__doc__)
    known.add_argument("--runtime", action="append", help="may be repeated; default hf-bf16, vllm-fp16, vllm-awq")
    known.add_argument("--repeats", type=int, default=100)
    known.add_argument("--browser", action="store_true", help="click to visible change, in Chromium")
    options = known.parse_args()
    report = Report("latency", options.json)
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    prompts = load_examples(bundle, probe.builder, limit=200)[1]
    for name in options.runtime or ("hf-bf16", "vllm-fp16", "vllm-awq"):
        runtime = load_runtime(bundle.runtime(name))
        try:
            _ask(report, probe, runtime, prompts, options.repeats)
        finally:
            runtime.close()
    if options.browser:
        _click(report, bundle, options.repeats)
    report.close()


def _ask(report: Report, probe: Probe, runtime: Runtime, prompts: list[Prompt], repeats: int) -> None:
    each = itertools.cycle(prompts)
    alone = timed(lambda: run(probe, next(each), runtime, ForwardOptions()), repeats=repeats, warm=5)
    report.add(f"{runtime.spec.name}, one session", **alone.figures())

    def session(number: int) -> list[float]:
        mine = itertools.cycle(prompts[number::SESSIONS])
        count = max(3, repeats // SESSIONS)
        return list(timed(lambda: run(probe, next(mine), runtime, ForwardOptions()), repeats=count).seconds)

    with ThreadPoolExecutor(SESSIONS) as pool:
        together = Timing(tuple(s for found in pool.map(session, range(SESSIONS)) for s in found))
    report.add(f"{runtime.spec.name}, {SESSIONS} sessions at once", **together.figures())
    report.add(f"{runtime.spec.name}, {SESSIONS} sessions / one, p50", ratio=together.median / alone.median)


def _click(report: Report, bundle: Bundle, repeats: int) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("--browser needs the Debian package chromium")
    with _server() as url, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        pages = [_open(browser, url) for _ in range(SESSIONS)]
        for toggle, what in (("lora", "states not cached"), ("normalize", "same raw states")):
            found = [ms for _ in range(max(4, repeats // 2)) for ms in _flip(pages[:1], toggle)]
            report.add(f"page, {toggle} toggle to change ({what})", **Timing(tuple(ms / 1000 for ms in found)).figures())
        found = [ms for _ in range(max(2, repeats // 20)) for ms in _flip(pages, "lora")]
        report.add(f"page, lora toggle, {SESSIONS} at once", **Timing(tuple(ms / 1000 for ms in found)).figures())
        browser.close()


def _flip(pages: list[Any], toggle: str) -> list[float]:
    """Click in all pages at once and return the milliseconds until each changed."""
    for page in pages:
        page.evaluate(_CLICK, [f".st-key-{toggle}", ".st-key-lane-hf-bf16"])
    found = [float(page.evaluate("window.changed")) for page in pages]
    for page in pages:
        _idle(page)
    return found


def _open(browser: Any, url: str) -> Any:
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.goto(f"{url}/?runtimes=hf-bf16")
    page.wait_for_selector(".st-key-lane-hf-bf16 .lane", timeout=90_000)
    _idle(page)
    return page


def _idle(page: Any) -> None:
    page.wait_for_timeout(150)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)


@contextmanager
def _server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with tempfile.TemporaryDirectory() as store:
        environment = os.environ | {"PROBE_PARITY_STORE": store}
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(url: str) -> None:
    import httpx

    for _ in range(240):
        try:
            if httpx.get(f"{url}/_stcore/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise SystemExit("the app did not start within a minute")


if __name__ == "__main__":
    main()
