"""Injected faults are named, alone and together; healthy deployments are not accused; the geometry predicts every flip."""

import json
from dataclasses import replace

import pytest
import torch

from backend.adapter_fit import fit_missing, fit_scale
from backend.arms import Arm
from backend.cli import main
from backend.diagnosis import diagnose
from backend.diagnosis_types import FAULTS, Cause
from backend.file_faults import file_faults
from backend.gold_causes import gold_cause
from backend.remedies import remedy
from backend.runtimes.adapter_edit import AdapterEdit
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.scoring import load_examples
from backend.state_cache import StateCache
from backend.token_alignment import Alignment, find_alignment
from benchmarks.deployments import build, file_cases, healthy_arms, pairs, random_sites, twins
from benchmarks.faults import named
from benchmarks.faulty import CASES, Faulty, extra_bos, rows_shifted, rows_shifted_back
from benchmarks.flips import measure

RAW = ForwardOptions()


@pytest.fixture(scope="module")
def probe(demo):
    return demo.load_probe()


@pytest.fixture(scope="module")
def examples(demo, probe):
    return load_examples(demo, probe.builder, limit=150)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A random bundle with its files, broken in every way."""
    return next(random_sites(tmp_path_factory.mktemp("site"), seeds=1, n_prompts=2))


@pytest.fixture(scope="module")
def broken(site, tmp_path_factory):
    return file_cases(site, tmp_path_factory.mktemp("broken") / "files")


def _named(site, arm, *, others=()):
    return named(diagnose(site.probe, site.prompts[0], site.baseline, arm, others=others))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_of_the_demo_is_named(probe, examples, hf_fp32, case):
    arm, cache = Arm(Faulty(hf_fp32, case.fault), RAW), StateCache()
    for prompt in examples[1][:2]:
        assert named(diagnose(probe, prompt, Arm(hf_fp32, RAW), arm, cache=cache)) == {case.cause}


@pytest.mark.parametrize("seen", [True, False], ids=["files seen", "files unseen"])
def test_broken_files_of_a_random_bundle_are_named(site, broken, seen):
    for case in broken:
        arm = build(site, [case], [], seen=seen)
        assert _named(site, arm, others=twins(arm) if seen else ()) == {case.cause}, case.name


def test_two_faults_at_once_are_both_named(site, broken):
    wrong = {}
    for files, wrappers, expected in pairs(broken):
        arm = build(site, files, wrappers)
        found = _named(site, arm, others=twins(arm) if files else ())
        if found != expected:
            wrong[expected] = found
    assert not wrong


def test_healthy_deployments_are_not_accused(site):
    for name, arm in healthy_arms(site):
        assert not _named(site, arm) & FAULTS, name


def test_real_deployments_that_are_well_are_not_accused(probe, examples, demo, pool, hf_fp32, vllm_fp16):
    for runtime in (pool.get(demo.runtime("hf-bf16")), pool.get(demo.runtime("hf-fp16")), vllm_fp16):
        for prompt in examples[1][:8]:
            assert not diagnose(probe, prompt, Arm(hf_fp32, RAW), Arm(runtime, RAW)).faults


def test_the_adapter_that_misfits_an_awq_base_is_named(probe, examples, demo, hf_fp32):
    spec = replace(hf_fp32.spec, model=demo.awq)
    arm = Arm(HFRuntime.load(spec), RAW, files=file_faults(spec, demo.base, trained=demo.adapter))
    assert named(diagnose(probe, examples[1][0], Arm(hf_fp32, RAW), arm)) == {Cause.ADAPTER_MISFIT}


def test_quantisation_is_a_step_of_its_own_and_not_a_fault(probe, examples, demo, pool, hf_fp32, vllm_awq):
    files = file_faults(vllm_awq.spec, demo.base, trained=demo.adapter)
    half = pool.get(demo.runtime("hf-fp16"))
    twin = HFRuntime.load(replace(vllm_awq.spec, engine="hf"))
    causes = set()
    for prompt in examples[1][:20]:
        arms = Arm(hf_fp32, RAW), Arm(vllm_awq, RAW, files=files)
        found = diagnose(probe, prompt, *arms, others=(half, twin))
        assert not found.faults
        assert [step.factor for step in found.ladder] == ["baseline", "dtype", "quantisation", "engine"]
        assert sum(share for slot in found.shares for _, share in slot.shares) == pytest.approx(len(found.shares))
        causes |= {verdict.cause for verdict in found.verdicts}
    assert causes <= {Cause.NONE, Cause.QUANTIZATION_DRIFT, Cause.QUANTIZATION_NEAR_TIE, Cause.DTYPE_DRIFT}


def test_toggles_and_decoding_are_steps_and_the_last_is_the_candidate(probe, examples, hf_fp32):
    from backend.probe import Decoding

    prompt = examples[1][0]
    arm = Arm(hf_fp32, ForwardOptions(normalize=True, lora=False), Decoding.JOINT)
    found = diagnose(probe, prompt, Arm(hf_fp32, RAW), arm)
    assert [step.factor for step in found.ladder] == ["baseline", "LoRA", "normalisation", "decoding"]
    states = hf_fp32.forward([prompt.ids], arm.options)[0]
    assert found.ladder[-1].slots == probe.predict(prompt, states, decoding=Decoding.JOINT)
    without = hf_fp32.forward([prompt.ids], ForwardOptions(lora=False))[0]
    assert [s.value for s in found.ladder[1].slots] == [s.value for s in probe.predict(prompt, without)]


def test_gold_comparison_is_a_step_that_changes_no_answer(probe, examples, hf_fp32):
    prompt = examples[1][0]
    answer = next(s for s in probe.predict(prompt, hf_fp32.forward([prompt.ids], RAW)[0]) if s.present)
    gold = {answer.slot: (answer.value, answer.value[1:])}
    found = diagnose(probe, prompt, Arm(hf_fp32, RAW), Arm(hf_fp32, RAW), gold=gold)
    assert found.ladder[-1].factor == "gold comparison" and found.ladder[-1].changed == (answer.slot,)
    assert found.ladder[-1].slots == found.ladder[-2].slots


def test_shapley_shares_say_where_order_matters(probe, examples, hf_fp32):
    """Both toggles can move one answer; wherever they do, shares add up and the ladder's first step has one."""
    shared = 0
    for prompt in examples[1][:20]:
        arm = Arm(hf_fp32, ForwardOptions(normalize=True, lora=False))
        found = diagnose(probe, prompt, Arm(hf_fp32, RAW), arm)
        for slot in found.shares:
            assert sum(share for _, share in slot.shares) == pytest.approx(1)
            shared += slot.order_matters
    assert shared  # or the shares would say no more than the ladder


@pytest.mark.parametrize(
    "fault, expected",
    [(rows_shifted, Alignment(1)), (rows_shifted_back, Alignment(-1)), (extra_bos, Alignment(1, constant_first=True))],
)
def test_rows_are_placed_without_a_baseline(hf_fp32, examples, fault, expected):
    assert find_alignment(Faulty(hf_fp32, fault), examples[1][0].ids, StateCache()) == expected
    assert find_alignment(hf_fp32, examples[1][0].ids, StateCache()).is_right


def test_an_adapter_edit_is_undone(hf_fp32, examples):
    ids = [examples[1][0].ids]
    before = hf_fp32.forward(ids, RAW)[0]
    assert torch.equal(hf_fp32.forward_edited(ids, AdapterEdit())[0], before)
    nothing = hf_fp32.forward_edited(ids, AdapterEdit(scale=0.0))[0]
    assert torch.allclose(nothing, hf_fp32.forward(ids, ForwardOptions(lora=False))[0], atol=1e-4)
    assert torch.equal(hf_fp32.forward(ids, RAW)[0], before)


def test_scale_and_missing_layers_are_found(hf_fp32, examples):
    ids, cache = examples[1][0].ids, StateCache()

    def expected(edit):
        return cache.states(hf_fp32, ids, edit)

    assert fit_scale(expected(AdapterEdit(scale=0.37)), expected).edit.scale == pytest.approx(0.37, rel=0.02)
    gone = frozenset({"layers.3", "layers.5"})
    found = fit_missing(expected(AdapterEdit(without=gone)), expected, hf_fp32.adapter_groups(), tolerance=1e-3)
    assert found.edit.without == gone


def test_gold_tells_label_threshold_and_model_apart(probe, examples, hf_fp32):
    prompt = examples[1][0]
    slots = probe.predict(prompt, hf_fp32.forward([prompt.ids], RAW)[0])
    answer = replace(next(s for s in slots if s.present), pointer_value="Boston")
    absent = replace(answer, null_logits=(0.0, 1.0), present=False)
    text = "from Boston (a city) to Rome"

    def cause(slot, decoded, raw):
        return gold_cause(slot, {slot.slot: (decoded, raw)}, text)[0]

    assert cause(answer, "Boston", "Boston") is Cause.NONE
    assert cause(answer, "Boston", "osto") is Cause.RAW_GOLD
    assert cause(answer, "Boston", "Paris") is Cause.LABEL_WRONG
    assert cause(answer, "Boston", "Rome") is Cause.LABEL_WRONG
    assert cause(answer, "Rome", "Rome") is Cause.MODEL_ERROR
    assert cause(absent, "Boston", "Boston") is Cause.NULL_THRESHOLD
    assert gold_cause(answer, None, text)[0] is Cause.NONE and gold_cause(answer, {}, text)[0] is Cause.MODEL_ERROR


def test_remedies_quote_the_installed_vllm(demo):
    line = remedy(Cause.NORMALIZATION, demo.runtime("vllm-fp16"))
    assert "--pooler-config" in line and '"use_activation": false' in line
    assert "--enable-lora" in remedy(Cause.LORA_NOT_APPLIED, demo.runtime("vllm-fp16"))
    assert all(str(demo.folder) not in remedy(cause, demo.runtime("vllm-awq")) for cause in Cause)


def test_flip_band_and_certificate_predict_every_flip(probe, demo, hf_fp32):
    # pointers of the demo seldom move: many prompts show a few that do
    found = measure(probe, hf_fp32, load_examples(demo, probe.builder, limit=600)[1])
    assert not found.exceptions
    assert found.flips > 50 and found.moves > 1  # or the prediction would be about nothing


def test_a_cached_diagnosis_computes_nothing_again(probe, examples, demo, pool, hf_fp32):
    cache, candidate = StateCache(), pool.get(demo.runtime("hf-fp16"))
    arms = Arm(hf_fp32, RAW), Arm(candidate, RAW)
    first = diagnose(probe, examples[1][0], *arms, cache=cache)
    asked = []
    seen = [replace(arm, runtime=Faulty(arm.runtime, lambda *a: asked.append(a) or a[0].forward(*a[1:]))) for arm in arms]
    diagnose(probe, examples[1][0], *seen, cache=cache)
    assert asked  # the counter counts
    asked.clear()
    again = diagnose(probe, examples[1][0], *seen, cache=cache)
    assert not asked and again.verdicts == first.verdicts


def test_command_line(capsys):
    question = ["--function", "book_flight", "--utterance", "Fly me from Boston to Seattle next Friday"]
    assert main(["diagnose", *question, "--candidate", "hf-fp16", "--normalize", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"verdicts", "ladder", "norms"} <= report.keys()
    assert {"slot", "cause", "confidence", "evidence", "remedy"} == report["verdicts"][0].keys()
    assert report["norms"]["candidate"]["mean"] == pytest.approx(1, abs=1e-3)
    assert "normalisation on" in {verdict["cause"] for verdict in report["verdicts"]}
    assert main(["diagnose", *question, "--candidate", "hf-fp16", "--slot", "seat"]) == 2
    assert main(["diagnose", "--candidate", "hf-fp16"]) == 2
