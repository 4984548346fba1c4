"""What a stranger may put into a bundle's folders, and what must not come of it."""

import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from backend.bundle import load_bundle
from backend.errors import BackendError, BundleError
from backend.foreign_code import foreign_code
from backend.runtimes.base import Engine
from backend.runtimes.hf import HFRuntime
from backend.runtimes.load import load_runtime
from backend.runtimes.vllm_compat import serve_arguments, spelling_of
from backend.schema import load_schemas
from backend.verify import verify_bundle
from tests import tiny


class Canary:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _only_pickles(folder, canary):
    """Leave pickles under every name that transformers, PEFT or vLLM know."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "adapter_model.bin", "adapter_model.pt"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    index = {"weight_map": {"model.norm.weight": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _index(name):
    def write(bundle):
        index = {"weight_map": dict.fromkeys(load_file(bundle / "base/model.safetensors"), name)}
        (bundle / "base/model.safetensors").rename(bundle / "base/other.safetensors")
        (bundle / "base/model.safetensors.index.json").write_text(json.dumps({"metadata": {}} | index))

    return write


def _embedded_adapter(bundle):
    for path in (bundle / "adapter").iterdir():
        shutil.copy(path, bundle / "base" / path.name)


def _more_layers(bundle):
    path = bundle / "base/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 4}))


@pytest.mark.parametrize("part", ["base", "adapter"])
@pytest.mark.parametrize("engine", [Engine.HF, Engine.VLLM])
def test_pickles_in_place_of_safetensors_are_never_read(bundle, tmp_path, part, engine):
    _only_pickles(bundle / part, tmp_path / "canary")
    spec = replace(load_bundle(bundle).runtimes[0], engine=engine)
    with pytest.raises(BundleError, match="No weights"):
        load_runtime(spec)
    assert not (tmp_path / "canary").exists()


REFUSED = {
    "an index that names a pickle": (_index("pytorch_model.bin"), "no safetensors of this folder"),
    "an index that leads out": (_index("../adapter/adapter_model.safetensors"), "no safetensors of this folder"),
    "an adapter in the base": (_embedded_adapter, "added without a word"),
    "four layers over two": (_more_layers, "config.json has 4 layers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_engine_refuses_it_before_it_starts(bundle, name):
    break_it, words = REFUSED[name]
    spec = load_bundle(bundle).runtimes[0]
    break_it(bundle)
    for engine in (Engine.HF, Engine.VLLM):
        with pytest.raises(BundleError) as refused:
            load_runtime(replace(spec, engine=engine))
        assert words in str(refused.value)
    assert any(words in str(problem) for problem in verify_bundle(bundle))


def test_a_quantised_checkpoint_without_its_last_layers_is_refused(demo, tmp_path):
    """vLLM keeps no account of a quantised checkpoint's weights: the missing ones would be random."""
    awq = shutil.copytree(demo.awq, tmp_path / "awq")
    config = json.loads((awq / "config.json").read_text())
    n = config["num_hidden_layers"]
    (awq / "config.json").write_text(json.dumps(config | {"num_hidden_layers": n + 2}))
    for runtime in ("vllm-awq", "hf-fp16"):
        with pytest.raises(BundleError, match="weights are incomplete") as refused:
            load_runtime(replace(demo.runtime(runtime), model=str(awq), adapter=None))
        assert f"config.json has {n + 2} layers, the weights {n}: they lack layer {n}" in str(refused.value)


def test_a_managed_server_reads_safetensors_and_config_json_only(demo):
    arguments = serve_arguments(replace(demo.runtime("vllm-fp16"), model="owner/name"), spelling_of("0.32"), port=1)
    assert arguments[arguments.index("--load-format") + 1] == "safetensors"
    assert arguments[arguments.index("--config-format") + 1] == "hf"
    assert "--trust-remote-code" not in arguments


KEYS = {
    "config.json": [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}},
        {"_attn_implementation": "owner/kernel"},
        {"attn_implementation": "flash_attention_2"},
        {"text_config": {"_attn_implementation_internal": "kernels-community/flash-attn"}},
        {"experts_implementation": "owner/kernel"},
        {"quantization_config": {"quant_method": "eetq"}},
        {"trust_remote_code": True},
        {"use_kernels": True},
        {"transformers_weights": "../other.safetensors"},
    ],
    "tokenizer_config.json": [{"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}],
    "generation_config.json": [{"custom_pipelines": {"x": {"impl": "mine.Pipeline"}}}],
    "adapter_config.json": [{"megatron_config": {"a": 1}, "megatron_core": "antigravity"}],
}


@pytest.mark.parametrize("file", KEYS)
def test_keys_that_ask_for_code_are_refused_by_name(tmp_path, file):
    for keys in KEYS[file]:
        (tmp_path / file).write_text(json.dumps(keys))
        problem = next(foreign_code(str(tmp_path)))
        assert file in problem.what and next(iter(keys)) in f"{keys}" and problem.remedy


def test_a_hub_adapter_that_has_only_a_pickle_is_refused(monkeypatch):
    from backend.weight_files import require_adapter_weights

    monkeypatch.setattr("transformers.utils.hub.cached_file", lambda *_, **__: None)
    with pytest.raises(BundleError, match="No weights"):
        require_adapter_weights("owner/adapter")


def test_heads_with_anything_but_tensors_are_refused(bundle, tmp_path):
    torch.save({"null_head": Canary(tmp_path / "canary")}, bundle / "probe_heads.pt")
    with pytest.raises(BackendError, match=r"probe_heads\.pt"):
        load_bundle(bundle).load_probe()
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["probe_heads.pt", "base/config.json", "adapter/adapter_model.safetensors"])
def test_a_link_to_itself_is_one_message(bundle, name):
    (bundle / name).unlink()
    (bundle / name).symlink_to(Path(name).name)
    with pytest.raises(BackendError) as refused:
        load_bundle(bundle)
    assert Path(name).name in str(refused.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name",
    [
        "bundle.toml",
        "base/config.json",
        "base/model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "function_schemas.json",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_a_file_that_never_ends_or_waits_is_one_message(bundle, name, kind):
    (bundle / name).unlink()
    if kind == "pipe":
        os.mkfifo(bundle / name)
    else:
        (bundle / name).touch()
        os.truncate(bundle / name, 2**41)  # no disk holds this, and no memory; the file system only notes it
    with pytest.raises(BackendError) as refused:
        load_schemas(load_bundle(bundle).schemas)
        HFRuntime.load(load_bundle(bundle).runtimes[0])
    assert Path(name).name in str(refused.value) or Path(name).parent.name in str(refused.value)


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 5000])
def test_a_bad_name_in_the_schemas_is_refused_with_the_file(bundle, name):
    path = bundle / "function_schemas.json"
    path.write_text(json.dumps({"book": {"slots": {name: {}}}}))
    with pytest.raises(BackendError, match=r"function_schemas\.json: A slot name of 'book'"):
        load_schemas(path)


def test_a_prompt_limit_that_is_too_low_is_told_with_its_file(bundle):
    text = (bundle / "bundle.toml").read_text()
    (bundle / "bundle.toml").write_text(re.sub(r"max_tokens = \d+", "max_tokens = 3", text))
    opened = load_bundle(bundle)
    schema = next(iter(load_schemas(opened.schemas).values()))
    with pytest.raises(BackendError, match=r"takes 3 tokens.*max_tokens in bundle\.toml"):
        opened.load_probe().builder.build(schema, "fly from Boston to Rome")


def test_whole_checkpoints_still_load(bundle):
    _index("other.safetensors")(bundle)
    assert HFRuntime.load(load_bundle(bundle).runtimes[0]).info.d_model == tiny.D
