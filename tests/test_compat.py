"""What `serve-command` prints, for the installed vLLM and for others."""

import ast
import dataclasses
import inspect
import shlex

import pytest

from backend.cli import main
from backend.errors import PrerequisiteError
from backend.pool import Pool
from backend.runtimes.base import Engine, RuntimeSpec
from backend.runtimes.vllm_compat import (
    installed_spelling,
    kv_cache_bytes,
    llm_code,
    max_length,
    serve_arguments,
    server_spelling,
    spelling_of,
)

# flag, name of the normalisation, whether PoolerConfig takes a task, whether /pooling takes an adapter's name
VERSIONS = {
    "0.11.1": ("--override-pooler-config", "normalize", False, False),
    "0.13.0": ("--pooler-config", "normalize", False, False),
    "0.15": ("--pooler-config", "use_activation", False, False),
    "0.19": ("--pooler-config", "use_activation", True, False),
    "0.25.1": ("--pooler-config", "use_activation", True, True),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_has_its_own_spelling(version, capsys):
    spelling = spelling_of(version)
    assert dataclasses.astuple(spelling)[1:] == VERSIONS[version]
    assert main(["serve-command", "--runtime", "vllm-awq", "--vllm-version", version]) == 0
    shown = capsys.readouterr().out
    flag, normalize, has_task, by_name = VERSIONS[version]
    assert f"{flag} '{{" in shown and f'"{normalize}": false' in shown and f"{normalize}=False" in shown
    assert ('"task"' in shown) == has_task and ("takes no adapter name" in shown) != by_name
    assert f"{flag.removeprefix('--').replace('-', '_')}=PoolerConfig" in shown
    ast.parse(shown.split("# the same in one process\n")[1])


@pytest.mark.parametrize("version", ["0.11.0", "0.9", "nonsense", ""])
def test_versions_that_cannot_do_it(version, capsys):
    with pytest.raises(PrerequisiteError):
        spelling_of(version)
    if version:
        assert main(["serve-command", "--runtime", "vllm-awq", "--vllm-version", version]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_vllm_the_lane_says_how_to_install_it_and_hf_works(demo, monkeypatch, capsys):
    monkeypatch.setattr("backend.runtimes.vllm_process.vllm_version", lambda: None)
    monkeypatch.setattr("backend.runtimes.vllm_compat.vllm_distribution", lambda: None)
    with Pool() as pool:
        with pytest.raises(PrerequisiteError, match="pip install vllm") as raised:
            pool.get(demo.runtime("vllm-fp16"))
        assert "HF runtimes work without it" in raised.value.remedy
    ask = ["predict", "--function", "book_flight", "--utterance", "fly to Rome", "--runtime"]
    assert main([*ask, "hf-bf16"]) == 0 and "Rome" in capsys.readouterr().out
    assert main([*ask, "vllm-fp16"]) == 2 and "pip install" in capsys.readouterr().err
    assert main(["serve-command", "--runtime", "vllm-fp16"]) == 2


def test_a_server_must_choose_adapters_by_name():
    assert server_spelling("0.23.0").adapter_by_name
    with pytest.raises(PrerequisiteError, match="too old"):
        server_spelling("0.22.1")


def test_the_installed_server_takes_every_argument(demo):
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    for spec in demo.runtimes:
        if spec.engine is Engine.VLLM:
            parsed = parser.parse_args(serve_arguments(spec, installed_spelling(), port=8000))
            assert parsed.model == spec.model and parsed.host == "127.0.0.1" and parsed.max_model_len == 1024
            assert parsed.pooler_config.use_activation is False and parsed.enable_lora


def test_the_installed_classes_take_every_keyword(demo):
    from vllm import LLM, EngineArgs, PoolingParams
    from vllm.config import PoolerConfig

    known = {
        "LLM": {*inspect.signature(LLM.__init__).parameters, *(f.name for f in dataclasses.fields(EngineArgs))},
        "PoolerConfig": {field.name for field in dataclasses.fields(PoolerConfig)},
        "PoolingParams": set(PoolingParams.__struct_fields__),
        "encode": set(inspect.signature(LLM.encode).parameters),
    }
    tree = ast.parse(llm_code(demo.runtime("vllm-awq"), installed_spelling()))
    seen = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name in known:
            seen.add(name)
            assert {keyword.arg for keyword in call.keywords} <= known[name], name
    assert seen == set(known)


def test_the_printed_line_splits_into_the_arguments_of_the_server(demo, capsys):
    assert main(["serve-command", "--runtime", "vllm-fp16", "--port", "8123"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    words = shlex.split(line)
    assert words[:3] in (["python", "-m", "vllm.entrypoints.openai.api_server"], ["vllm", "serve", words[2]])
    arguments = serve_arguments(demo.runtime("vllm-fp16"), installed_spelling(), port=8123)
    assert words[-2].startswith("--lora-modules") and len(words) in (len(arguments) + 3, len(arguments) + 1)


def test_memory_follows_the_model(demo, tmp_path):
    spec = demo.runtime("vllm-fp16")
    assert kv_cache_bytes(spec) == 256 * 2**20 and max_length(spec) == 1024
    large = '{"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192, '
    (tmp_path / "config.json").write_text(large + '"max_position_embeddings": 512}')
    spec = RuntimeSpec("v", Engine.VLLM, str(tmp_path), "float16", max_tokens=2048)
    assert max_length(spec) == 512 and kv_cache_bytes(spec) == 8 * 512 * 2 * 2 * 80 * 8 * 128
    assert kv_cache_bytes(RuntimeSpec("v", Engine.VLLM, "owner/name", "float16")) > 2**30
