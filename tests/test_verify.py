"""A bundle broken in each way is told so; one broken in several ways is told all of them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.cli import main
from backend.errors import InputError
from backend.verify import verify_bundle
from tests import tiny

GOOD = '{"function": "book", "utterance": "fly to Rome", "slots": {"destination": %s}}\n'
SPAN = '{"char_start": 7, "char_end": 11, "value": "Rome"}'


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tiny.make(tmp_path_factory.mktemp("whole"))
    (folder / "set.jsonl").write_text(GOOD % SPAN)
    toml = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text('dataset = "set.jsonl"\n' + toml)
    return folder


@pytest.fixture
def bundle(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def _rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _config(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _no_heads(b):
    (b / "probe_heads.pt").unlink()


def _unknown_key(b):
    (b / "bundle.toml").write_text('bases = "x"\n' + (b / "bundle.toml").read_text())


def _small_heads(b):
    d = tiny.D // 2
    heads = {
        "null_head": {"classifier.weight": torch.zeros(2, d), "classifier.bias": torch.zeros(2)},
        "pointer_head": {"W_start.weight": torch.zeros(d, d), "W_end.weight": torch.zeros(d, d)},
    }
    torch.save(heads, b / "probe_heads.pt")


def _garbage_heads(b):
    (b / "probe_heads.pt").write_bytes(b"not a checkpoint")


def _wrapped_adapter(b):
    def wrap(tensors):
        for name in list(tensors):
            tensors[name.replace("base_model.model.", "base_model.model.module.")] = tensors.pop(name)

    _rewrite(b / "adapter/adapter_model.safetensors", wrap)


def _other_rank(b):
    _config(b / "adapter/adapter_config.json", r=8)


def _dora(b):
    _config(b / "adapter/adapter_config.json", use_dora=True)


def _no_scale(b):
    _config(b / "adapter/adapter_config.json", lora_alpha=0)


def _fill_adapter(value):
    def fill(tensors):
        for name in tensors:
            if ".lora_B" in name:
                tensors[name].fill_(value)

    return lambda b: _rewrite(b / "adapter/adapter_model.safetensors", fill)


def _no_tokenizer(b):
    (b / "base/tokenizer.json").unlink()


def _truncated(b):
    path = b / "base/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _nan(b):
    _rewrite(b / "base/model.safetensors", lambda t: t["model.norm.weight"].__setitem__(0, float("nan")))


def _more_layers(b):
    _config(b / "base/config.json", num_hidden_layers=3)


def _bad_schemas(b):
    (b / "function_schemas.json").write_text('{"book": {"slots": {}}}')


def _dataset(text):
    def broken(b):
        (b / "set.jsonl").write_text(text)

    return broken


BROKEN = {
    "missing file": (_no_heads, "bundle.toml", "no probe_heads.pt"),
    "unknown key": (_unknown_key, "bundle.toml", "bases"),
    "head size": (_small_heads, "probe_heads.pt", "hidden size 32"),
    "unreadable heads": (_garbage_heads, "probe_heads.pt", "cannot be read"),
    "wrapped adapter": (_wrapped_adapter, "adapter", "matches no module"),
    "rank": (_other_rank, "adapter", "expected [8, 32]"),
    "DoRA": (_dora, "adapter", "use_dora"),
    "alpha 0": (_no_scale, "adapter", "lora_alpha 0"),
    "NaN in the adapter": (_fill_adapter(float("nan")), "adapter", "NaN"),
    "untrained adapter": (_fill_adapter(0.0), "adapter", "all-zero lora_B"),
    "no tokenizer": (_no_tokenizer, "base", "tokenizer"),
    "truncated weights": (_truncated, "base", "damaged"),
    "NaN": (_nan, "base", "NaN"),
    "more layers than weights": (_more_layers, "base", "do not fit config.json"),
    "schema without slots": (_bad_schemas, "function_schemas.json", "no slots"),
    "unknown slot": (_dataset(GOOD.replace("destination", "seat") % SPAN), "set.jsonl", "line 1"),
    "span beside value": (_dataset(GOOD % SPAN.replace("7", "6")), "set.jsonl", "not what its span covers"),
    "span outside": (_dataset(GOOD % SPAN.replace("11", "99")), "set.jsonl", "outside"),
    "no JSON": (_dataset("{"), "set.jsonl", "line 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_problem_is_named(bundle, name):
    break_it, file, words = BROKEN[name]
    break_it(bundle)
    problems = verify_bundle(bundle)
    assert [p for p in problems if p.file == file and words in str(p) and p.remedy], problems


def test_all_problems_are_named_at_once(bundle):
    for break_it in (_small_heads, _wrapped_adapter, _nan, _dataset("{")):
        break_it(bundle)
    assert {problem.file for problem in verify_bundle(bundle)} == {"base", "probe_heads.pt", "adapter", "set.jsonl"}


def test_whole_bundles_have_no_problem(whole, demo, capsys):
    assert verify_bundle(whole) == ()
    assert main(["bundle", "verify", str(demo.folder)]) == 0
    assert capsys.readouterr().out == "no problems\n"


def test_exit_codes(bundle, capsys):
    _small_heads(bundle)
    assert main(["bundle", "verify", str(bundle), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)[0]["file"] == "probe_heads.pt"
    assert main(["bundle", "verify", str(bundle / "nowhere")]) == 2
    with pytest.raises(InputError):
        verify_bundle(bundle / "nowhere")
