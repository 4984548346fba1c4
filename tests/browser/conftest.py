"""A real server on a free port and a real browser."""

from dataclasses import dataclass

import pytest
from playwright.sync_api import sync_playwright

from backend.bundle import DEMO, load_bundle
from backend.evaluation import begin, carry_on
from backend.plan import Plan
from backend.runtimes.base import ForwardOptions
from backend.scoring import load_examples
from backend.store import Store
from tests.browser.serving import ROOT, idle, launch, serve

SCREENSHOTS = ROOT / "screenshots"


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    """Where the server of the browser tests keeps its runs."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def server(store_folder):
    with serve(store_folder) as url:
        yield url


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        launched = launch(playwright)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, server):
    """Return a function that opens a path and waits until the script has run."""
    pages = []

    def open_it(path="", *, dark=False, width=1400):
        page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme="dark" if dark else "light")
        pages.append(page)
        page.goto(f"{server}/{path}")
        idle(page)
        return page

    yield open_it
    for page in pages:
        page.close()


def shot(page, name):
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@dataclass(frozen=True)
class Flipped:
    """A slot that normalising calls present although it is absent."""

    example: str
    utterance: str
    slot: str


@pytest.fixture(scope="session")
def stored(store_folder, pool):
    """A stored run of 60 examples with and without normalisation, and the slots that normalising made wrong."""
    bundle = load_bundle(DEMO)
    specs = (bundle.runtime("hf-bf16"), bundle.runtime("hf-fp16"))
    with Store(store_folder / "runs.sqlite") as store:
        plan = Plan(bundle, specs, (True,), (False, True), dataset=bundle.dataset, limit=60)
        run = begin(store, plan)
        carry_on(store, run, plan, pool.get)
    probe, runtime, wrong = bundle.load_probe(), pool.get(specs[1]), []
    for example, prompt in zip(*load_examples(bundle, probe.builder, limit=60), strict=True):
        states = [runtime.forward([prompt.ids], ForwardOptions(normalize=n))[0] for n in (False, True)]
        for raw, unit in zip(*(probe.predict(prompt, rows) for rows in states), strict=True):
            if unit.present and not raw.present:
                wrong.append(Flipped(example.id, example.utterance, raw.slot))
    assert wrong
    return run, wrong
