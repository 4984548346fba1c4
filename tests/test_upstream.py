"""What upstream's training script leaves, a base and five lines of bundle.toml predict; bad input gets one message."""

import json
import threading

import pytest
import torch

from backend.bundle import load_bundle
from backend.cli import main
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from tests import tiny

TOML = """base = "base"
adapter = "adapter"
heads = "probe_heads.pt"
schemas = "function_schemas.json"
prompt = { max_tokens = 200 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny.make(tmp_path_factory.mktemp("upstream"), architecture="mistral")
    (made / "bundle.toml").write_text(TOML)
    return made


def test_five_lines_are_enough(folder, capsys):
    arguments = ["predict", "--bundle", str(folder), "--function", "book", "--utterance", "fly from Boston to Rome"]
    assert len(TOML.splitlines()) == 5
    assert main([*arguments, "--runtime", "hf-bf16", "--runtime", "hf-fp16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [run["runtime"] for run in report["runs"]] == ["hf-bf16", "hf-fp16"]
    assert set(report["runs"][0]["slots"]) == {"date", "destination", "origin"}


def test_eight_threads_with_mixed_toggles_give_what_one_gives(folder):
    bundle = load_bundle(folder)
    builder, schema = bundle.load_probe().builder, load_schemas(bundle.schemas)["book"]
    ids = [builder.build(schema, text).ids for text in tiny.TEXTS]
    runtime = HFRuntime.load(bundle.runtimes[0])
    options = [ForwardOptions(normalize=n, lora=lora) for n in (False, True) for lora in (False, True)] * 2
    alone = [runtime.forward(ids, option) for option in options]
    differing = []

    def work(i):
        for _ in range(20):
            again = runtime.forward(ids, options[i])
            differing.extend(i for a, b in zip(alone[i], again, strict=True) if not torch.equal(a, b))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not differing


UTTERANCE = ["--utterance", "fly to Rome"]
BAD = {
    "empty": (["--function", "book", "--utterance", ""], None),
    "white space": (["--function", "book", "--utterance", " \n\t "], None),
    "too many characters": (["--function", "book", "--utterance", "x" * 200_001], None),
    "only NUL": (["--function", "book", "--utterance", "\0\0"], None),
    "only zero width": (["--function", "book", "--utterance", "\u200b\u200d \ufeff"], None),
    "only direction marks": (["--function", "book", "--utterance", "\u202e\u2066\u2069\u202c"], None),
    "only blank letters": (["--function", "book", "--utterance", "\u3164\u2800\ufe0f"], None),
    "too many tokens": (["--function", "book", "--utterance", "fly " * 500], None),
    "lone surrogate": (["--function", "book", "--utterance", "fly \ud800"], None),
    "unknown function": (["--function", "boook", *UTTERANCE], None),
    "unknown runtime": (["--function", "book", *UTTERANCE, "--runtime", "tpu"], None),
    "schema without slots": (["--function", "book", *UTTERANCE], ("function_schemas.json", '{"book": {"slots": {}}}')),
    "duplicate slots": (
        ["--function", "book", *UTTERANCE],
        ("function_schemas.json", '{"book": {"slots": {"a": {}, "a": {}}}}'),
    ),
    "unreadable JSON": (["--function", "book", *UTTERANCE], ("function_schemas.json", "{")),
    "broken bundle": (["--function", "book", *UTTERANCE], ("bundle.toml", "base = ")),
    "broken base": (["--function", "book", *UTTERANCE], ("base/config.json", "{}")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_exit_code_2(folder, tmp_path, capsys, name):
    import shutil

    arguments, damage = BAD[name]
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    if damage:
        (bundle / damage[0]).write_text(damage[1])
    assert main(["predict", "--bundle", str(bundle), *arguments, "--json"]) == 2
    printed = capsys.readouterr()
    message = printed.err.strip().splitlines()[-1]
    assert printed.out == "" and message.endswith(".") and "Traceback" not in printed.err


@pytest.mark.parametrize("text", ["a\0b to Rome", "\u202eRome\u202c", "fly\u200b to\u200d Rome", "<script>x</script>"])
def test_odd_characters_are_read_like_any_others(folder, capsys, text):
    assert main(["predict", "--bundle", str(folder), "--function", "book", "--utterance", text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["utterance"] == text
