"""A passport from a real run, and its generated test: green on the deployment it describes, red on a broken one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.cli import main
from tests import tiny

ROOT = Path(__file__).parent.parent
RUNTIMES = ("hf-fp32", "hf-fp16")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, a run of it, and its passport."""
    folder = tiny.make(tmp_path_factory.mktemp("tiny") / "bundle")
    text = "fly from Boston to Seattle next Friday"
    gold = {"origin": {"char_start": 9, "char_end": 15, "value": "Boston"}}
    lines = [{"id": f"e{i}", "function": "book", "utterance": text[: 20 + i % 18], "slots": gold} for i in range(60)]
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, lines)))
    toml = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(
        'dataset = "set.jsonl"\n' + toml + '[[runtime]]\nname = "hf-fp16"\ndtype = "float16"\n'
    )
    store, out = folder.parent / "runs.sqlite", folder.parent / "passport"
    common = ["--bundle", str(folder), "--store", str(store)]
    named = [word for name in RUNTIMES for word in ("--runtime", name)]
    assert main(["evaluate", *common, *named]) == 0
    code = main(["passport", *common, "--run", "1", "--out", str(out), "--max-drop", "10"])
    return folder, store, out, code


def recheck(out):
    """Run the generated test as a pipeline would; return its exit code and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(out), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout


def test_the_passport_holds_what_a_decision_rests_on(made):
    _, _, out, code = made
    passport = json.loads((out / "passport.json").read_text())
    assert [runtime["name"] for runtime in passport["runtimes"]] == list(RUNTIMES)
    assert passport["report"]["cells"][0]["ci95"] and passport["report"]["cells"][0]["n_present"] == 60
    assert {"probe_heads.pt", "base/model.safetensors", "adapter/adapter_model.safetensors"} <= passport["files"].keys()
    for runtime in passport["runtimes"]:
        assert all(check["passed"] for check in runtime["checks"]) == (not runtime["reasons"])
        assert len(runtime["answers"]) == 24
    assert code == 0, [runtime["reasons"] for runtime in passport["runtimes"]]


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(made):
    page = (made[2] / "passport.html").read_text()
    assert "May it go out?" in page and "hf-fp16" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_the_generated_test_passes_and_then_fails_on_a_broken_adapter(made):
    folder, _, out, _ = made
    code, printed = recheck(out)
    assert code == 0 and "5 passed" in printed, printed
    config = folder / "adapter" / "adapter_config.json"
    healthy = config.read_text()
    config.write_text(json.dumps(json.loads(healthy) | {"lora_alpha": 400}))
    try:
        code, printed = recheck(out)
    finally:
        config.write_text(healthy)
    assert code == 1 and "adapter_config.json" in printed
    assert "FAILED" in printed and "test_answers_are_those_that_were_judged[hf-fp32]" in printed, printed


def test_a_run_of_other_files_is_refused(capsys, made, tmp_path):
    folder, store, _, _ = made
    heads = folder / "probe_heads.pt"
    healthy = heads.read_bytes()
    content = torch.load(heads, weights_only=True)
    content["null_head"]["classifier.bias"] += 1
    torch.save(content, heads)
    command = ["passport", "--bundle", str(folder), "--store", str(store), "--run", "1", "--out", str(tmp_path / "p")]
    try:
        assert main(command) == 2
    finally:
        heads.write_bytes(healthy)
    assert "bundle differ" in capsys.readouterr().err and not (tmp_path / "p").exists()


def test_no_such_run_is_one_message(capsys, made, tmp_path):
    folder, store, _, _ = made
    command = ["passport", "--bundle", str(folder), "--store", str(store), "--run", "9", "--out", str(tmp_path / "p")]
    assert main(command) == 2
    assert "No run of that number" in capsys.readouterr().err
