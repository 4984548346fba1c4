"""The first page: the bundle's own figures, failures one click away, and what the click changed."""

import pytest

from backend.bundle import DEMO, load_bundle
from backend.cli import main
from backend.errors import InputError
from backend.results import Change, changes, load_results, results_of, save_results
from backend.runtimes.base import ForwardOptions
from backend.store import Store
from tests.test_playground import page  # noqa: F401  its first runtime is loaded

TRAINED = ForwardOptions()


def _html(shown):
    return "".join(block.proto.body for block in shown.get("html"))


def test_figures_of_the_bundle_are_shown(page):  # noqa: F811
    results = load_results(DEMO)
    shown = _html(page)
    for figure in results.figures:
        if figure.options == TRAINED:
            assert f"{100 * figure.exact_match:.1f} %" in shown and f"{figure.n:,}" in shown


def test_the_story_sets_toggles_and_points_at_what_changed(page):  # noqa: F811
    results = load_results(DEMO)
    for step, failure in enumerate(results.failures):
        page.button(key=f"story-{step}").click().run()
        assert not page.exception
        assert page.session_state["utterance"] == failure.utterance
        assert page.toggle(key="normalize").value == failure.normalize and page.toggle(key="lora").value == failure.lora
        story = next(block.proto.body for block in page.get("html") if block.proto.body.startswith("<ul"))
        look = next(block.proto.body for block in page.get("html") if block.proto.body.startswith("<b>Look at"))
        if failure.slot:
            assert "✓" in story and "✗" in story
            assert "is right against the text of the gold tokens" in look and "wrong against the raw label" in look
        else:
            assert "→" in story
            assert f"{story.count('<li>')} of " in look and "null margin" in look
            assert ("went from" in look and "to 1.00" in look) == failure.normalize
    page.button(key="story-end").click().run()
    assert not page.toggle(key="normalize").value and page.toggle(key="lora").value
    assert not [button for button in page.button if button.key == "story-end"]


def test_another_text_changes_what_is_pointed_at(page):  # noqa: F811
    page.button(key="story-1").click().run()
    before = _html(page)
    page.text_area(key="utterance").set_value("two pizzas, please").run()
    assert not page.exception and _html(page) != before


def test_figures_that_are_none_are_left_out(tmp_path):
    assert load_results(tmp_path) is None
    (tmp_path / "results.json").write_text("[]")
    assert load_results(tmp_path) is None


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "runs.sqlite"
    common = ["evaluate", "--store", str(path), "--limit", "64", "--runtime", "hf-bf16"]
    assert main([*common, "--matrix"]) == 0 and main(common) == 0
    return path


def test_results_are_those_of_the_run_and_survive_the_file(store, tmp_path):
    with Store(store) as opened:
        made = results_of(opened, 1, machine="here")
        rows = [r for r in opened.rows(1) if r.lora and not r.normalize and r.gold_present]
        with pytest.raises(InputError, match="one pair"):
            results_of(opened, 2, machine="here")
    figure = made.figure("hf-bf16", TRAINED)
    assert figure.n == len(rows) and figure.exact_match == sum(r.right for r in rows) / len(rows)
    save_results(made, tmp_path)
    assert load_results(tmp_path) == made


def test_each_failure_shows_itself(store, pool):
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    from backend.schema import load_schemas

    runtime = pool.get(bundle.runtimes[0])
    with Store(store) as opened:
        failures = results_of(opened, 1, machine="here").failures
    for failure in failures:
        prompt = probe.builder.build(load_schemas(bundle.schemas)[failure.function], failure.utterance)
        healthy, broken = (probe.predict(prompt, runtime.forward([prompt.ids], o)[0]) for o in (TRAINED, failure.options))
        if failure.slot:
            read = next(slot.value for slot in healthy if slot.slot == failure.slot)
            assert read == failure.decoded != failure.raw
        else:
            found = changes(healthy, broken)
            assert found and all(isinstance(change, Change) for change in found)
    assert [failure.name for failure in failures][:2] == ["normalisation on", "LoRA off"]
