"""Markup in every place that comes from elsewhere: no script runs, no request leaves, nothing moves.

The places: pasted texts, pasted functions, names of bundle folders, functions, slots and files, dataset ids, values and
labels, the report and the passport.
"""

import pytest
from playwright.sync_api import expect

from backend.cli import main
from tests.browser import hostile
from tests.browser.serving import idle, serve

pytestmark = pytest.mark.timeout(280)
# an element that sticks out of the page, and is not inside of something that cuts or scrolls
_STICKS_OUT = """() => {
  const wide = innerWidth + 1, cut = e => e && e !== document.documentElement &&
    (getComputedStyle(e).overflowX !== 'visible' || cut(e.parentElement));
  const out = [...document.querySelectorAll('[data-testid=stMain] *')].filter(
    e => e.getBoundingClientRect().right > wide && !cut(e.parentElement));
  return out.slice(0, 3).map(e => e.outerHTML.slice(0, 200));
}"""

# the text of the lane, without the names of slots that stand behind their values
_SHOWS = """text => {
  const lane = document.querySelector('.st-key-lane-hf-fp32 .lane')?.cloneNode(true);
  lane?.querySelectorAll('sub').forEach(label => label.remove());
  return lane?.textContent.includes(text);
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    parent = tmp_path_factory.mktemp("hostile")
    folder = hostile.make(parent)
    return folder, parent, hostile.evaluate(folder, parent / "runs.sqlite")


@pytest.fixture(scope="module")
def url(made):
    folder, parent, _ = made
    with serve(parent, {"PROBE_PARITY_BUNDLE": str(folder)}) as served:
        yield served


@pytest.fixture
def watched(browser, url):
    """A page and the requests that it made to anywhere but the app."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    left = []

    def route(each):
        if each.request.url.startswith((url, "file:", "data:", "blob:")):
            each.continue_()
        else:
            left.append(each.request.url)
            each.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.set_default_timeout(120_000)  # the first look loads tokenizer and heads
    yield page, left
    assert not left
    context.close()


def holds(page):
    """Check that nothing ran and nothing moved."""
    idle(page)
    assert page.evaluate("window.hit") is None and page.evaluate("window.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert not page.evaluate(_STICKS_OUT)
    expect(page.locator("h1")).to_be_visible()
    assert page.locator("[data-testid=stException]").count() == 0
    # an img of the app's own would have no remote or made-up source
    assert page.evaluate("[...document.images].filter(e => /remote|\\/x$/.test(e.src)).length") == 0


def fill(page, key, text):
    box = page.locator(f".st-key-{key} textarea")
    box.fill(text)
    box.press("Control+Enter")
    page.wait_for_timeout(250)
    idle(page)


def choose(page, key, text):
    page.locator(f".st-key-{key} input").click()
    page.locator("[role=option]").filter(has_text=text).first.click()
    page.wait_for_timeout(250)
    idle(page)


def test_pasted_texts_and_functions(watched, url):
    page, _ = watched
    page.goto(url)
    expect(page.locator("[data-testid=stSidebar]")).to_contain_text(f"bundle: {hostile.FOLDER}", timeout=60_000)
    for text in hostile.texts():
        fill(page, "utterance", text)
        page.wait_for_function(_SHOWS, arg=text.split("\n")[0])
        holds(page)
    choose(page, "function", "custom function")
    fill(page, "tool", hostile.tool())
    holds(page)
    expect(page.locator("[data-testid=stDataFrame]").first).to_be_visible()


def test_diagnose_and_norms(watched, url):
    page, _ = watched
    page.goto(f"{url}/Diagnose")
    for text in hostile.texts()[1::3]:
        fill(page, "utterance", text)
        expect(page.locator("[data-testid=stMain]")).to_contain_text("tokens of the utterance", timeout=90_000)
        holds(page)
    # names are shown letter by letter
    expect(page.locator(".st-key-slot button").filter(has_text=hostile.IMAGE)).to_be_visible()
    page.goto(f"{url}/Norms")
    fill(page, "utterance", hostile.texts()[2])
    expect(page.locator("[data-testid=stMain]")).to_contain_text("Where normalisation cannot be", timeout=60_000)
    holds(page)


def test_evaluate_and_health(watched, url, made):
    page, _ = watched
    page.goto(f"{url}/Evaluate?evaluation={made[2]}")
    expect(page.locator(".st-key-matrix canvas").first).to_be_visible(timeout=60_000)
    for view, show in (("Flips", "All"), ("Slices", None), ("Raw labels", None)):
        page.locator(".st-key-view button").filter(has_text=view).click()
        page.wait_for_timeout(250)
        idle(page)
        if show is not None:
            page.locator(".st-key-show button").filter(has_text=show).last.click()
            page.wait_for_timeout(250)
            idle(page)
            box = page.locator(".st-key-flips canvas").first.bounding_box()
            page.mouse.click(box["x"] + 12, box["y"] + 52)
            expect(page.locator(".st-key-opened")).to_contain_text("label", timeout=20_000)
        holds(page)
    page.goto(f"{url}/Health")
    page.locator(".st-key-check-hf-fp16 button").click()
    expect(page.locator(".st-key-health-hf-fp16")).to_contain_text("checks hold", timeout=60_000)
    holds(page)


def test_an_uploaded_set_and_a_refused_one(watched, url, tmp_path):
    page, _ = watched
    page.goto(f"{url}/Evaluate")
    idle(page)
    page.locator("[data-testid=stExpander] summary").first.click()
    bad = tmp_path / f"{hostile.NAMES[1]}.jsonl"
    bad.write_text(
        '{"function": "![x](http://remote.invalid/f.png)", "utterance": "<script>window.hit=1</script>", "slots": {}}'
    )
    page.locator(".st-key-upload input[type=file]").set_input_files(bad)
    page.wait_for_timeout(500)
    idle(page)
    page.locator(".st-key-start button").click()
    page.wait_for_timeout(1000)
    holds(page)


def test_report_and_passport(watched, url, made, tmp_path):
    page, left = watched
    folder, parent, run = made
    with_store = ["--bundle", str(folder), "--store", str(parent / "runs.sqlite"), "--run", str(run)]
    assert main(["passport", *with_store, "--out", str(tmp_path / "passport")]) in (0, 3)
    page.goto(f"{url}/Evaluate?evaluation={run}")
    with page.expect_download(timeout=60_000) as report:
        page.locator(".st-key-html button").click()
    report.value.save_as(tmp_path / "report.html")
    for file, words in ((tmp_path / "report.html", "McNemar"), (tmp_path / "passport" / "passport.html", "May it go out?")):
        page.goto(file.as_uri())
        page.wait_for_timeout(1000)
        expect(page.locator("body")).to_contain_text(words)
        expect(page.locator("body")).to_contain_text("onerror=window.hit=1")
        assert page.evaluate("window.hit") is None and page.evaluate("window.length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1400
