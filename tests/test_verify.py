"""A bundle broken in each way is told so; one broken in several ways is told all of them."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend import quarantine
from backend.bundle import load_bundle
from backend.cli import main
from backend.errors import BundleError, InputError
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.verify import find_problems, verify_bundle
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


def _fewer_layers(b):
    _config(b / "base/config.json", num_hidden_layers=1)


def _no_folder(name):
    return lambda b: shutil.rmtree(b / name)


def _toml(line):
    """Put a line at the top of bundle.toml; a key that is there already is taken out first."""

    def change(b):
        key = line.split(" = ")[0]
        old = (b / "bundle.toml").read_text().splitlines(keepends=True)
        (b / "bundle.toml").write_text(line + "\n" + "".join(row for row in old if not row.startswith(f"{key} = ")))

    return change


def _runtime(table):
    return lambda b: (b / "bundle.toml").write_text((b / "bundle.toml").read_text() + f"[[runtime]]\n{table}\n")


def _kernel(b):
    _config(b / "base/config.json", _attn_implementation="someone/kernel")


def _link_out(name):
    """Put a link to a file outside the bundle in place of one of its own."""

    def change(b):
        moved = b.parent / "elsewhere"
        moved.mkdir(exist_ok=True)
        (b / name).rename(moved / "file")
        (b / name).symlink_to(moved / "file")

    return change


def _auto_map(b):
    _config(b / "base/tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenizer.Mine", None]})


def _imports_module(b):
    _config(b / "adapter/adapter_config.json", megatron_config={"x": 1}, megatron_core="antigravity")


def _no_adapter_weights(b):
    (b / "adapter/adapter_model.safetensors").rename(b / "adapter/adapter_model.bin")


def _rank_is_text(b):
    _config(b / "adapter/adapter_config.json", r="sixteen")


def _bad_schemas(b):
    (b / "function_schemas.json").write_text('{"book": {"slots": {}}}')


def _dataset(text):
    def broken(b):
        (b / "set.jsonl").write_text(text)

    return broken


BROKEN = {
    "missing file": (_no_heads, "bundle.toml", "no probe_heads.pt"),
    "unknown key": (_unknown_key, "bundle.toml", "bases"),
    "no base folder": (_no_folder("base"), "bundle.toml", "base: no base"),
    "no adapter folder": (_no_folder("adapter"), "bundle.toml", "adapter: no adapter"),
    "a path of several parts": (_toml('base = "my/models/base"'), "bundle.toml", "no my/models/base"),
    "a relative path": (_toml('adapter = "./adapters"'), "bundle.toml", "no ./adapters"),
    "a path in the bundle": (_toml('adapter = "base/adapter"'), "bundle.toml", "no base/adapter"),
    "a hub id not on this machine": (_toml('base = "nobody/nothing"'), "base", "not on this machine"),
    "no base key": (_toml("base = 1"), "bundle.toml", "base: Input should be a valid string"),
    "no examples": (_toml('examples = "some.jsonl"'), "bundle.toml", "no some.jsonl"),
    "a runtime twice": (_runtime('name = "hf-fp32"'), "bundle.toml", "Two runtimes have one name"),
    "a runtime that is a path": (_runtime('name = "../x"'), "bundle.toml", "runtime.1.name"),
    "a device that is none": (_runtime('name = "x"\ndevice = "abacus"'), "bundle.toml", "runtime.1.device"),
    "a runtime without its AWQ base": (_runtime('name = "x"\ncheckpoint = "awq"'), "bundle.toml", "no AWQ checkpoint"),
    "a path out": (_toml('dataset = "../set.jsonl"'), "bundle.toml", "leads out of the bundle"),
    "an absolute path out": (_toml('base = "/etc"'), "bundle.toml", "base: /etc"),
    "a link out": (_link_out("probe_heads.pt"), "bundle.toml", "heads: probe_heads.pt is"),
    "a link out of the base": (_link_out("base/model.safetensors"), "bundle.toml", "base: base is"),
    "attention from the hub": (_kernel, "base", "_attn_implementation: 'someone/kernel'"),
    "code of the tokenizer": (_auto_map, "base", "auto_map"),
    "a module to import": (_imports_module, "adapter", "megatron_config"),
    "adapter only as pickle": (_no_adapter_weights, "adapter", "no adapter_model.safetensors"),
    "rank that is no number": (_rank_is_text, "adapter", "r is no number"),
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
    "fewer layers than weights": (_fewer_layers, "base", "do not fit config.json"),
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


# none of these takes away what another one breaks
TOGETHER = (
    "unknown key",
    "no examples",
    "a runtime that is a path",
    "a runtime without its AWQ base",
    "head size",
    "wrapped adapter",
    "alpha 0",
    "NaN in the adapter",
    "no tokenizer",
    "more layers than weights",
    "NaN",
    "span outside",
)


def test_all_problems_are_named_at_once(bundle):
    for name in TOGETHER:
        BROKEN[name][0](bundle)
    problems = verify_bundle(bundle)
    for _, file, words in (BROKEN[name] for name in TOGETHER):
        assert [p for p in problems if p.file == file and words in str(p)], (words, problems)


@pytest.mark.parametrize("name", ["no base folder", "a path of several parts", "a hub id not on this machine"])
def test_the_network_is_never_asked(bundle, name, monkeypatch):
    BROKEN[name][0](bundle)
    asked = []
    # as the process that verifies is started; else huggingface_hub asks once a day, whatever it is told to load
    assert quarantine._QUIET["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.getaddrinfo", lambda *to, **_: asked.append(to) or [])
    monkeypatch.setattr("socket.socket.connect", lambda _, to: asked.append(to))
    assert list(find_problems(bundle)) and not asked


def test_what_verify_says_of_files_every_command_says(bundle, capsys):
    """One message on stderr and nothing else: no bar of a library, no look at the hub."""
    command = ["predict", "--bundle", str(bundle), "--function", "book", "--utterance", "fly to Rome"]
    shutil.rmtree(bundle / "adapter")
    done = subprocess.run([sys.executable, "-m", "backend", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("A folder of the bundle is missing (found adapter: no adapter).")
    assert len(done.stderr.splitlines()) == 1


def test_the_operator_may_allow_a_folder(bundle, tmp_path, monkeypatch):
    _link_out("base/model.safetensors")(bundle)
    with pytest.raises(BundleError, match="leads out"):
        load_bundle(bundle)
    monkeypatch.setenv("PROBE_PARITY_ROOTS", f"/nowhere:{tmp_path / 'elsewhere'}")
    assert verify_bundle(bundle) == ()


@pytest.mark.parametrize("break_it", [_kernel, _no_adapter_weights, _imports_module])
def test_loading_refuses_it_too(bundle, break_it):
    break_it(bundle)
    with pytest.raises(BundleError, match="code from elsewhere|No weights"):
        HFRuntime.load(load_bundle(bundle).runtimes[0])


def test_an_adapter_saved_over_the_stack_alone_does_the_same(bundle):
    """Keys without the inner `model.` load in vLLM, so HF must read them alike."""
    spec, ids, on = load_bundle(bundle).runtimes[0], [[5, 6, 7, 8]], ForwardOptions()
    before = HFRuntime.load(spec).forward(ids, on)[0]

    def shorten(tensors):
        for name in list(tensors):
            tensors[name.replace("base_model.model.model.", "base_model.model.")] = tensors.pop(name)

    _rewrite(bundle / "adapter/adapter_model.safetensors", shorten)
    assert verify_bundle(bundle) == ()
    runtime = HFRuntime.load(spec)
    assert torch.equal(runtime.forward(ids, on)[0], before)
    assert not torch.equal(runtime.forward(ids, ForwardOptions(lora=False))[0], before)


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
