"""Injected faults are named, healthy deployments are not accused, and the geometry predicts every flip."""

from dataclasses import replace

import pytest

from backend.check_files import file_checks
from backend.cli import main
from backend.diagnosis import Arm, diagnose
from backend.diagnosis_types import Cause
from backend.geometry import null_geometry, pointer_certificates
from backend.norms import normalize
from backend.probe import Decoding
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.scoring import load_examples
from benchmarks.faulty import CASES, Faulty

RAW = ForwardOptions()


@pytest.fixture(scope="module")
def examples(demo, probe):
    return load_examples(demo, probe.builder, limit=150)


@pytest.fixture(scope="module")
def probe(demo):
    return demo.load_probe()


def _causes(probe, prompts, healthy, arm):
    found = (v.cause for p in prompts for v in diagnose(probe, p, Arm(healthy, RAW), arm).verdicts)
    return {cause for cause in found if cause is not Cause.NONE}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_named(probe, examples, hf_fp32, case):
    assert _causes(probe, examples[1][:8], hf_fp32, Arm(Faulty(hf_fp32, case.fault), RAW)) == case.causes


def test_real_deployments_that_are_well_are_not_accused(probe, examples, demo, pool, hf_fp32, vllm_fp16):
    harmless = {Cause.DTYPE_DRIFT, Cause.ENGINE_DRIFT}
    for runtime in (pool.get(demo.runtime("hf-bf16")), pool.get(demo.runtime("hf-fp16")), vllm_fp16):
        assert _causes(probe, examples[1][:8], hf_fp32, Arm(runtime, RAW)) <= harmless


def test_the_adapter_that_misfits_an_awq_base_is_named(probe, examples, demo, hf_fp32):
    spec = replace(hf_fp32.spec, model=demo.awq)
    files = tuple(file_checks(spec, demo.base, trained=demo.adapter))
    arm = Arm(HFRuntime.load(spec), RAW, file_checks=files)
    assert _causes(probe, examples[1][:8], hf_fp32, arm) == {Cause.ADAPTER_MISFIT}


def test_quantisation_is_drift_and_not_a_fault(probe, examples, demo, hf_fp32, vllm_awq):
    files = tuple(file_checks(vllm_awq.spec, demo.base, trained=demo.adapter))
    causes = _causes(probe, examples[1][:40], hf_fp32, Arm(vllm_awq, RAW, file_checks=files))
    assert causes and causes <= {Cause.QUANTIZATION_DRIFT, Cause.QUANTIZATION_NEAR_TIE}


def test_toggles_and_decoding_are_steps_of_the_ladder(probe, examples, hf_fp32):
    prompt = examples[1][0]
    arm = Arm(hf_fp32, ForwardOptions(normalize=True, lora=False), Decoding.JOINT)
    found = diagnose(probe, prompt, Arm(hf_fp32, RAW), arm)
    names = ["baseline", "engine, dtype, weights", "LoRA toggle", "normalisation", "decoding"]
    assert [step.factor for step in found.ladder] == names
    assert found.ladder[1].changed == () and found.ladder[-1].slots == probe.predict(
        prompt, hf_fp32.forward([prompt.ids], arm.options)[0], decoding=Decoding.JOINT
    )


def test_gold_tells_label_threshold_and_model_apart(probe, examples, hf_fp32):
    causes = set()
    for example, prompt in zip(*examples, strict=True):
        gold = {
            g.slot: (probe.builder.decode_span(prompt, prompt.token_span(g.chars)), g.value) for g in example.gold
        }
        found = diagnose(probe, prompt, Arm(hf_fp32, RAW), Arm(hf_fp32, RAW), gold=gold)
        for verdict, slot in zip(found.verdicts, found.ladder[-1].slots, strict=True):
            decoded, raw = gold.get(verdict.slot, ("", ""))
            right = (slot.value or "") == decoded
            assert (verdict.cause in (Cause.NONE, Cause.RAW_GOLD)) == right
            assert (verdict.cause is Cause.RAW_GOLD) == (right and decoded != raw)
            causes.add(verdict.cause)
    assert causes == {Cause.NONE, Cause.RAW_GOLD, Cause.NULL_THRESHOLD, Cause.MODEL_ERROR}


def test_flip_band_and_certificate_predict_every_flip_of_150_examples(probe, examples, hf_fp32):
    flips = moves = 0
    for prompt in examples[1]:
        states = hf_fp32.forward([prompt.ids], RAW)[0]
        before, after = probe.predict(prompt, states), probe.predict(prompt, normalize(states))
        geometry, certificates = null_geometry(probe, prompt, states), pointer_certificates(probe, prompt, states)
        for a, b, null, pointer in zip(before, after, geometry, certificates, strict=True):
            assert null.flips == (a.present != b.present)
            in_band = null.weight_part * null.bias_part < 0 and 1 < null.ratio < null.norm
            assert null.flips == in_band
            flips += null.flips
            if pointer.certified:
                assert a.pointer == b.pointer
            moves += a.pointer != b.pointer
    assert flips > 50 and moves > 3  # or the prediction would be about nothing


def test_command_line(capsys):
    question = ["--function", "book_flight", "--utterance", "Fly me from Boston to Seattle next Friday"]
    assert main(["diagnose", *question, "--candidate", "hf-fp16", "--normalize", "--slot", "airline"]) == 0
    assert "airline: normalisation on" in capsys.readouterr().out
    assert main(["diagnose", *question, "--candidate", "hf-fp16", "--slot", "seat"]) == 2
    assert main(["diagnose", "--candidate", "hf-fp16"]) == 2
