"""The demo bundle through HuggingFace and PEFT against DESIGN's mathematics written plainly."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.bundle import DEMO, load_bundle
from backend.cli import main
from backend.errors import RuntimeFault
from backend.norms import normalize
from backend.pool import Pool
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas

TOGGLES = [ForwardOptions(normalize=n, lora=on) for n in (False, True) for on in (False, True)]


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(DEMO)


@pytest.fixture(scope="module")
def runtime(bundle):
    loaded = HFRuntime.load(bundle.runtimes[0])
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def probe(bundle):
    return bundle.load_probe()


@pytest.fixture(scope="module")
def prompts(bundle, probe):
    schemas = load_schemas(bundle.schemas)
    records = [json.loads(line) for line in bundle.dataset.read_text(encoding="utf-8").splitlines()[:24]]
    return [probe.builder.build(schemas[r["function"]], r["utterance"]) for r in records], records


@pytest.mark.parametrize("options", TOGGLES)
def test_equals_plain_torch(bundle, runtime, probe, prompts, options):
    tokenizer = AutoTokenizer.from_pretrained(bundle.base)
    model = AutoModelForCausalLM.from_pretrained(bundle.base, dtype=torch.bfloat16)
    if options.lora:
        model = PeftModel.from_pretrained(model, bundle.adapter).get_base_model()
    heads = torch.load(bundle.heads, weights_only=True)
    null, pointer = heads["null_head"], heads["pointer_head"]
    for prompt, record in list(zip(*prompts, strict=True))[:6]:
        pieces = [f"Function: {record['function']}\n", record["utterance"], "\n\n"]
        ids = [i for text in pieces for i in tokenizer(text, add_special_tokens=False).input_ids]
        first = len(tokenizer(pieces[0], add_special_tokens=False).input_ids)
        last = first + len(tokenizer(pieces[1], add_special_tokens=False).input_ids)
        queries = []
        for slot in prompt.slot_names:
            ids += tokenizer(f"{slot}:", add_special_tokens=False).input_ids
            queries.append(len(ids) - 1)
            ids += tokenizer("\n", add_special_tokens=False).input_ids
        assert list(prompt.ids) == ids
        with torch.inference_mode():
            h = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].float()
        if options.normalize:
            h = h / h.norm(dim=-1, keepdim=True)
        predicted = probe.predict(prompt, runtime.forward([prompt.ids], options)[0])
        for found, position in zip(predicted, queries, strict=True):
            logits = null["classifier.weight"].float() @ h[position] + null["classifier.bias"].float()
            assert found.null_logits == pytest.approx(logits.tolist(), abs=2e-3)
            start = int(((pointer["W_start.weight"].float() @ h[position]) @ h[first:last].T).argmax())
            end = max(start, int(((pointer["W_end.weight"].float() @ h[position]) @ h[first:last].T).argmax()))
            assert (found.pointer.start, found.pointer.end) == (first + start, first + end + 1)
            assert found.pointer_value == tokenizer.decode(ids[first + start : first + end + 1]).strip()


def test_threads_with_mixed_toggles_agree_with_one_thread(runtime, prompts):
    rows = [prompt.ids for prompt in prompts[0][:4]]
    alone = {options: runtime.forward(rows, options) for options in TOGGLES}
    with ThreadPoolExecutor(8) as pool:
        for options, states in zip(TOGGLES * 8, pool.map(lambda o: runtime.forward(rows, o), TOGGLES * 8), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(states, alone[options], strict=True))


def test_toggles_change_what_the_probe_reads(runtime, probe, prompts):
    rows = [prompt.ids for prompt in prompts[0]]
    read = {
        options: [[s.value for s in slots] for slots in probe.predict_batch(prompts[0], runtime.forward(rows, options))]
        for options in TOGGLES
    }
    assert read[TOGGLES[1]] != read[TOGGLES[0]]
    assert read[TOGGLES[1]] != read[TOGGLES[3]]


def test_dividing_scores_is_what_normalising_states_does(runtime, probe, prompts):
    states = runtime.forward([prompt.ids for prompt in prompts[0]], TOGGLES[1])
    derived = probe.predict_scored(prompts[0], probe.score_batch(prompts[0], states).normalized())
    direct = probe.predict_batch(prompts[0], [normalize(rows) for rows in states])
    for ours, theirs in zip(chain(*derived), chain(*direct), strict=True):
        assert (ours.slot, ours.present, ours.pointer) == (theirs.slot, theirs.present, theirs.pointer)
        assert ours.null_logits == pytest.approx(theirs.null_logits, abs=1e-5)
        assert (ours.start_score, ours.end_margin) == pytest.approx((theirs.start_score, theirs.end_margin), abs=1e-5)


def test_states_that_are_no_numbers_are_refused(probe, prompts):
    prompt = prompts[0][0]
    for position in (prompt.query_positions[0], prompt.utterance_span.start):
        states = torch.zeros(len(prompt.ids), probe.heads.d_model)
        states[position, 0] = float("nan")
        with pytest.raises(RuntimeFault, match="NaN"):
            probe.predict(prompt, states)


def test_predict_prints_json(capsys):
    code = main(["predict", "--function", "book_flight", "--utterance", "fly from Boston to Seattle", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["runs"][0]["slots"]["destination"]["value"] == "Seattle"


def test_a_runtime_that_fails_is_named_and_the_others_answer(capsys, monkeypatch):
    load = Pool.get

    def broken(self, spec, **more):
        if spec.name == "vllm-fp16":
            raise RuntimeFault("The server ended", found="exit code 1", remedy="See its log.")
        return load(self, spec, **more)

    monkeypatch.setattr(Pool, "get", broken)
    ask = ["predict", "--function", "book_flight", "--utterance", "fly from Boston to Seattle"]
    ask += ["--runtime", "vllm-fp16", "--runtime", "hf-bf16"]
    assert main(ask) == 2
    printed = capsys.readouterr()
    assert "destination: Seattle" in printed.out and "airline: (absent)" in printed.out
    assert printed.err.splitlines()[-1] == "vllm-fp16: The server ended (found exit code 1). See its log."
    assert main([*ask, "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert [made["runtime"] for made in report["runs"]] == ["hf-bf16"] and list(report["failed"]) == ["vllm-fp16"]


@pytest.mark.parametrize("utterance", ["", "   ", "x" * 200_001, "\ud800"])
def test_bad_text_is_one_sentence(capsys, utterance):
    assert main(["predict", "--function", "book_flight", "--utterance", utterance]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err and printed.err.strip()


def test_missing_bundle_is_named(capsys, tmp_path):
    assert main(["predict", "--bundle", str(tmp_path), "--function", "f", "--utterance", "u"]) == 2
    assert "bundle.toml" in capsys.readouterr().err
