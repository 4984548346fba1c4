"""The dashboard of a recording where torch, transformers and vllm cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from backend import recorded
from backend.bundle import DEMO
from backend.cli import main
from backend.norms import norm_stats
from backend.recording import Recording
from backend.runtimes.base import ForwardOptions
from backend.story import recorded_story
from tests import tiny

ROOT = Path(__file__).parent.parent
TEXTS = ("fly from Boston to Seattle", "ok", "send (-1, -2) to Seattle next Friday")

# opens one page as a fresh process would, with the three packages absent
OPEN = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "vllm", "peft"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from streamlit.testing.v1 import AppTest
page = AppTest.from_file("app.py", default_timeout=60)
if sys.argv[1] != "app.py":
    page.switch_page(sys.argv[1])
page.run()
seen = []
for toggle in (None, "recorded-normalize", "recorded-lora"):
    if toggle is not None and not [t for t in page.toggle if t.key == toggle]:
        continue
    if toggle is not None:
        page.toggle(key=toggle).set_value(toggle == "recorded-normalize").run()
    seen.append({
        "exceptions": [e.message for e in page.exception],
        "tables": [table.value.to_dict("list") for table in page.dataframe],
        "html": [block.proto.body for block in page.get("html")],
        "said": [element.value for element in (*page.info, *page.code)],
    })
assert not {"torch", "transformers", "vllm"} & set(sys.modules), "imported after all"
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    made = tiny.make(tmp_path_factory.mktemp("tiny"))
    gold = {"origin": {"char_start": 9, "char_end": 15, "value": "Boston"}}
    rows = [{"function": "book", "utterance": text, "slots": gold if n == 0 else {}} for n, text in enumerate(TEXTS)]
    (made / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    toml = (made / "bundle.toml").read_text()
    (made / "bundle.toml").write_text('dataset = "set.jsonl"\n' + toml)
    assert main(["record", "--bundle", str(made), "--out", str(made / "tiny.zip")]) == 0
    return made


def open_page(page, bundle, **environment):
    done = subprocess.run(
        [sys.executable, "-c", OPEN, page],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PROBE_PARITY_BUNDLE": str(bundle), "PROBE_PARITY_STORE": str(bundle / "store")} | environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_story_sets_toggles_in_a_recording_and_says_where_to_look(monkeypatch):
    monkeypatch.setenv("PROBE_PARITY_RECORDING", str(DEMO / "recorded.zip"))
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    steps = recorded_story(Recording(DEMO / "recorded.zip"))
    assert [step.failure.name for step in steps][:2] == ["normalisation on", "LoRA off"]
    page.button(key="story-0").click().run()
    for step in steps:
        assert not page.exception and page.session_state["recorded-example"] == step.place
        assert page.toggle(key="recorded-normalize").value == step.failure.normalize
        assert page.toggle(key="recorded-lora").value == step.failure.lora
        assert any(block.proto.body.startswith("<b>Look at") for block in page.get("html"))
        if step is not steps[-1]:
            page.button(key="story-next").click().run()
    page.button(key="story-end").click().run()
    assert not page.exception and page.toggle(key="recorded-lora").value
    assert not any(block.proto.body.startswith("<b>Look at") for block in page.get("html"))


def test_the_playground_opens_without_torch_and_answers_both_toggles(bundle):
    first, normalized, without = open_page("app.py", bundle, PROBE_PARITY_RECORDING=str(bundle / "tiny.zip"))
    recording = Recording(bundle / "tiny.zip")
    for seen, options in ((first, ForwardOptions()), (normalized, ForwardOptions(normalize=True))):
        assert seen["exceptions"] == []
        answers = recorded.replay(recording, 0, ["hf-fp32"], options)[0].slots
        assert [cell[2:] for cell in seen["tables"][0]["hf-fp32"]] == [slot.value or "(absent)" for slot in answers]
        assert sum("Recorded" in block for block in seen["html"]) == 2  # the page, and its lane
    assert without["exceptions"] == [] and without["tables"][0] != normalized["tables"][0]


@pytest.mark.parametrize("page", ["Evaluate", "Diagnose", "Health"])
def test_the_other_pages_say_what_they_are(bundle, page):
    seen = open_page(f"pages/{page}.py", bundle, PROBE_PARITY_RECORDING=str(bundle / "tiny.zip"))[0]
    assert seen["exceptions"] == [] and "Recorded" in seen["html"][0]
    assert page == "Evaluate" or "live runtimes" in seen["said"][0]


def test_without_torch_and_recording_there_is_one_message(bundle):
    seen = open_page("app.py", bundle)[0]
    assert seen["exceptions"] == [] and "PROBE_PARITY_RECORDING" in seen["said"][-1]


def test_a_damaged_recording_is_one_message(bundle, tmp_path):
    (tmp_path / "bad.zip").write_text("no zip")
    seen = open_page("app.py", bundle, PROBE_PARITY_RECORDING=str(tmp_path / "bad.zip"))[0]
    assert seen["exceptions"] == [] and "bad.zip" in seen["said"][-1]


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_norms_are_summed_up_as_live_ones(n):
    states = torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) * torch.linspace(1, 9, n)[:, None]
    live = norm_stats(states)
    replayed = recorded._stats(states.norm(dim=-1).numpy())
    assert replayed.outliers == live.outliers
    for name in ("mean", "std", "min", "max", "cv"):
        assert getattr(replayed, name) == pytest.approx(getattr(live, name), rel=1e-5, abs=1e-6)
