"""Checkpoints that others made with llm-compressor: read back, judged, and served by vLLM as what they mean."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.awq.dequantize import dequantized_state
from backend.bundle import load_bundle
from backend.check_files import same_source
from backend.errors import BundleError
from backend.health import check_prompts
from backend.runtimes.base import Engine, ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.verify import verify_bundle
from tests import compressed


@pytest.fixture(scope="module")
def packed(demo, tmp_path_factory):
    return compressed.write(Path(demo.base), tmp_path_factory.mktemp("compressed") / "packed")


def test_it_is_read_as_the_library_reads_it(packed):
    ours, theirs = dequantized_state(packed), compressed.decompressed(packed)
    assert len(theirs) == 6 * 7
    for name, weight in theirs.items():
        # the library multiplies in FP16
        assert torch.allclose(ours[name], weight, rtol=2e-3, atol=1e-5), name


@pytest.mark.timeout(180)
def test_vllm_serves_it_as_hf_computes_its_dequantised_weights(demo, pool, packed):
    spec = replace(demo.runtime("vllm-fp16"), name="vllm-packed", model=str(packed))
    reference = HFRuntime.load(replace(spec, engine=Engine.HF, dtype="float32"))
    ids = check_prompts(demo, demo.load_probe().builder)
    served = pool.get(spec)
    for lora in (True, False):
        ours, theirs = (runtime.forward(ids, ForwardOptions(lora=lora)) for runtime in (served, reference))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.cosine_similarity(a.float(), b, dim=-1).min() >= 0.999
    pool.unload(spec)


def test_the_source_is_judged(demo, packed, tmp_path):
    assert same_source(packed, Path(demo.base)).passed
    other = shutil.copytree(demo.base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert not same_source(packed, other).passed


def test_a_bundle_may_name_it(demo, packed, tmp_path):
    folder = shutil.copytree(demo.folder, tmp_path / "bundle")
    shutil.rmtree(folder / "awq")
    shutil.copytree(packed, folder / "awq")
    assert verify_bundle(folder) == ()
    assert load_bundle(folder).runtime("vllm-awq").model == str(folder / "awq")


@pytest.mark.parametrize("change", [{"num_bits": 8}, {"actorder": "group"}, {"type": "float"}])
def test_what_cannot_be_read_back_is_refused(packed, tmp_path, change):
    folder = shutil.copytree(packed, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="pack-quantized"):
        dequantized_state(folder)
