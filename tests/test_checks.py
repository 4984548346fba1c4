"""Each fault makes a check fail that names it; a healthy runtime passes all."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.adapter import inspect_adapter
from backend.checks import check_runtime
from backend.health import check_prompts
from backend.runtimes.base import Engine, ForwardOptions
from backend.runtimes.hf import HFRuntime
from benchmarks.faulty import Faulty, always_normalized, lora_times, no_lora, not_a_number, one_token_dropped


def _never_normalized(inner, ids, options):
    return inner.forward(ids, replace(options, normalize=False))


def _rows_swapped_in_batches(inner, ids, options):
    states = inner.forward(ids, options)
    return [rows.flip(0) for rows in states] if len(ids) > 1 else states


def _changes_its_mind():
    """Answers rightly at first and otherwise later, as an engine does that somebody restarted with another model."""
    calls = itertools.count()

    def changed(inner, ids, options):
        factor = 1.1 if next(calls) > 3 else 1.0  # three calls for the states, one for the first canary
        return [rows * factor for rows in inner.forward(ids, options)]

    return changed


FAULTS = [
    (_changes_its_mind(), "canary"),
    (always_normalized, "normalisation off when off"),
    (_never_normalized, "normalisation on when on"),
    (no_lora, "LoRA applied"),
    (one_token_dropped, "token contract"),
    (not_a_number, "token contract"),
    (lora_times(2), "LoRA fingerprint"),
    (_rows_swapped_in_batches, "noise floor"),
]


@pytest.fixture(scope="module")
def judge(demo, hf_fp32):
    ids = check_prompts(demo, demo.load_probe().builder)

    def run(runtime):
        checks = check_runtime(runtime, hf_fp32, ids, d_heads=384, base_model=demo.base, trained=demo.adapter)
        return {check.name: check for check in checks}

    return run


@pytest.mark.parametrize("fault, name", FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_named(judge, hf_fp32, fault, name):
    check = judge(Faulty(hf_fp32, fault))[name]
    assert not check.passed and check.remedy


def test_missing_lora_also_shows_in_the_fingerprint(judge, hf_fp32):
    assert "not applied" in judge(Faulty(hf_fp32, no_lora))["LoRA fingerprint"].remedy


@pytest.mark.parametrize("runtime", ["vllm_fp16", "vllm_awq"])
def test_real_engines_pass_every_check(judge, request, runtime):
    failed = [check for check in judge(request.getfixturevalue(runtime)).values() if not check.passed]
    assert not failed


def test_awq_states_equal_hf_on_the_dequantised_weights(demo, vllm_awq):
    reference = HFRuntime.load(replace(vllm_awq.spec, engine=Engine.HF, dtype="float32"))
    ids = check_prompts(demo, demo.load_probe().builder)
    for lora in (True, False):
        ours, theirs = (r.forward(ids, ForwardOptions(lora=lora)) for r in (vllm_awq, reference))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.cosine_similarity(a.float(), b, dim=-1).min() >= 0.999


def test_an_awq_checkpoint_of_another_base_is_named(demo, judge, tmp_path, hf_fp32):
    other = tmp_path / "awq"
    shutil.copytree(demo.awq, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    runtime = HFRuntime.load(replace(hf_fp32.spec, model=str(other)))
    checks = judge(runtime)
    assert not checks["same source model"].passed and not checks["base parity"].passed


def test_the_original_adapter_on_an_awq_base_is_named(demo, judge, hf_fp32):
    runtime = HFRuntime.load(replace(hf_fp32.spec, model=demo.awq))
    assert "rescale-adapter" in judge(runtime)["adapter fits the AWQ scales"].remedy


def _adapter(demo, folder, *, rename=None, config=None):
    shutil.copytree(demo.adapter, folder)
    path = folder / "adapter_model.safetensors"
    if rename:
        tensors = {rename(name): value for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    if config:
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return folder


@pytest.mark.parametrize("wrapper", ["backbone.", "module.", "_orig_mod."])
def test_keys_under_a_wrapper_bind_nothing(demo, tmp_path, wrapper):
    folder = _adapter(demo, tmp_path / "a", rename=lambda n: n.replace("base_model.model.", f"base_model.model.{wrapper}"))
    report = inspect_adapter(folder, Path(demo.base))
    assert not report.bound and len(report.unmatched) == 84 and len(report.missing) == 42


def test_a_partly_wrapped_adapter_says_which_modules_are_missing(demo, tmp_path):
    folder = _adapter(demo, tmp_path / "a", rename=lambda n: n.replace(".layers.3.", ".module.layers.3."))
    report = inspect_adapter(folder, Path(demo.base))
    assert len(report.bound) == 35 and all(module.startswith("layers.3.") for module in report.missing)


def test_settings_that_vllm_rejects_are_named(demo, tmp_path):
    report = inspect_adapter(_adapter(demo, tmp_path / "a", config={"use_dora": True}), Path(demo.base))
    assert report.unsupported == ("use_dora = True",)


def test_real_vllm_ignores_a_wrapped_adapter_and_the_checks_say_so(demo, judge, tmp_path, pool):
    """vLLM 0.32 starts, answers, and applies nothing."""
    folder = _adapter(demo, tmp_path / "a", rename=lambda n: n.replace("base_model.model.", "base_model.model.backbone."))
    spec = replace(demo.runtime("vllm-fp16"), name="vllm-wrapped", adapter=str(folder))
    checks = judge(pool.get(spec))
    pool.unload(spec)
    assert not checks["adapter keys"].passed and "backbone" in checks["adapter keys"].observed
    assert not checks["LoRA applied"].passed


def test_real_vllm_with_a_wrong_alpha_has_another_slope(demo, judge, tmp_path, pool):
    folder = _adapter(demo, tmp_path / "a", config={"lora_alpha": 8})
    spec = replace(demo.runtime("vllm-fp16"), name="vllm-alpha", adapter=str(folder))
    check = judge(pool.get(spec))["LoRA fingerprint"]
    pool.unload(spec)
    assert not check.passed
