"""One utterance with all its slots, warm: ``python -m benchmarks.latency [--runtime hf-bf16] [--browser]``.

Through each runtime from token ids to decoded values, alone and with 8 sessions at once; with ``--browser``, from the
click on a toggle to the changed lane in Chromium: with states that are kept from before, and with texts that are new, also
less what the lane itself says that forward pass and heads took.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from backend.bundle import DEMO, load_bundle
from backend.inference import run
from backend.probe import Probe
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, Runtime
from backend.runtimes.load import load_runtime
from backend.scoring import load_examples
from benchmarks.measuring import Report, Timing, parser, timed
from tests.browser.serving import idle, launch, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SESSIONS = 8
_LANE = ".st-key-lane-hf-bf16"
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
        _click(report, prompts, options.repeats)
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


def _click(report: Report, prompts: Sequence[Prompt], repeats: int) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as url, sync_playwright() as playwright:
        browser = launch(playwright)
        pages = [_open(browser, url) for _ in range(SESSIONS)]
        for toggle in ("lora", "normalize"):
            _flip(pages[:1], toggle)  # asks the one state that is new; from here on both are kept
            kept = [ms for _ in range(repeats) for ms in _flip(pages[:1], toggle)]
            report.add(f"page, {toggle} toggle to change, states kept", **_figures(kept))
        new, added = [], []
        for prompt in prompts[: max(4, repeats // 2)]:
            _type(pages[0], prompt.utterance)
            took = _flip(pages[:1], "lora")[0]
            new.append(took)
            added.append(took - _engine_ms(pages[0]))
        report.add("page, lora toggle to change, states not kept", **_figures(new))
        report.add("page, the same without forward pass and heads", **_figures(added))
        together = [ms for _ in range(max(2, repeats // 20)) for ms in _flip(pages, "lora")]
        report.add(f"page, lora toggle, {SESSIONS} at once", **_figures(together))
        browser.close()


def _figures(milliseconds: Sequence[float]) -> dict[str, float]:
    return Timing(tuple(ms / 1000 for ms in milliseconds)).figures()


def _flip(pages: Sequence[Page], toggle: str) -> list[float]:
    """Click in all pages at once and return the milliseconds until each changed."""
    for page in pages:
        page.evaluate(_CLICK, [f".st-key-{toggle}", _LANE])
    found = [float(page.evaluate("window.changed")) for page in pages]
    for page in pages:
        _settle(page)
    return found


def _type(page: Page, text: str) -> None:
    before = page.locator(_LANE).inner_html()
    box = page.locator(".st-key-utterance textarea")
    box.fill(text)
    box.press("Control+Enter")
    changed = "([lane, before]) => (document.querySelector(lane) || {innerHTML: before}).innerHTML !== before"
    page.wait_for_function(changed, arg=[_LANE, before])
    _settle(page)


def _engine_ms(page: Page) -> float:
    """Return what the lane says that forward pass and heads took."""
    said = re.search(r"([\d.]+) ms", page.locator(_LANE).inner_text())
    if said is None:
        raise SystemExit("the lane does not say what its answer took")
    return float(said.group(1))


def _open(browser: Browser, url: str) -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.goto(f"{url}/?runtimes=hf-bf16")
    page.wait_for_selector(f"{_LANE} .lane", timeout=90_000)
    _settle(page)
    return page


def _settle(page: Page) -> None:
    page.wait_for_timeout(150)
    idle(page)


if __name__ == "__main__":
    main()
