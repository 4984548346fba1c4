"""Predictions and norms equal a plain-torch implementation written from the format alone, which uses nothing of backend."""

import json
import statistics

import pytest
import torch
from peft.utils import load_peft_weights
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from backend.bundle import load_bundle
from backend.norms import norm_stats
from backend.runtimes.base import ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from tests import tiny

UTTERANCES = [*tiny.TEXTS[:3], "Friday", "  two   spaces ", "(-1, -2"]


def reference(folder, utterance, *, lora, normalize):
    """Return mean norm and ``{slot: (present, null logits, start, end, value)}``, end inclusive."""
    words = PreTrainedTokenizerFast.from_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    if lora:
        settings = json.loads((folder / "adapter/adapter_config.json").read_text())
        weights = load_peft_weights(str(folder / "adapter"), device="cpu")
        for name, a in weights.items():
            if "lora_A" in name:
                layer = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                b = weights[name.replace("lora_A", "lora_B")]
                layer.weight.data += settings["lora_alpha"] / settings["r"] * b @ a
    heads = torch.load(folder / "probe_heads.pt", weights_only=True)

    def ids(text):
        return words(text, add_special_tokens=False)["input_ids"]

    prompt = ids("Function: book\n")
    first = len(prompt)
    prompt += ids(utterance)
    last = len(prompt)
    prompt += ids("\n\n")
    queries = {}
    for slot in sorted(tiny.SCHEMAS["book"]["slots"]):
        prompt += ids(f"{slot}:")
        queries[slot] = len(prompt) - 1
        prompt += ids("\n")
    with torch.no_grad():
        h = model.model(torch.tensor([prompt])).last_hidden_state[0]
    if normalize:
        h = h / h.norm(dim=-1, keepdim=True)
    found = {}
    for slot, at in queries.items():
        q = h[at]
        null = heads["null_head"]["classifier.weight"] @ q + heads["null_head"]["classifier.bias"]
        scores = [
            [float((heads["pointer_head"][f"{w}.weight"] @ q) @ h[i]) / tiny.D**0.5 for i in range(first, last)]
            for w in ("W_start", "W_end")
        ]
        start, end = (first + max(range(len(s)), key=s.__getitem__) for s in scores)
        end = max(start, end)
        found[slot] = (bool(null[0] >= null[1]), null.tolist(), start, end, words.decode(prompt[start : end + 1]).strip())
    return float(h.norm(dim=-1).mean()), found


def _balance(folder):
    """Move the bias so that half of the slots are present."""
    margins = []
    for utterance in UTTERANCES:
        found = reference(folder, utterance, lora=True, normalize=False)[1]
        margins += [null[0] - null[1] for _, null, *_ in found.values()]
    heads = torch.load(folder / "probe_heads.pt", weights_only=True)
    heads["null_head"]["classifier.bias"] -= torch.tensor([0.5, -0.5]) * statistics.median(margins)
    torch.save(heads, folder / "probe_heads.pt")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_predictions_and_norms_equal_the_reference(tmp_path, architecture, kind):
    folder = tiny.make(tmp_path, architecture=architecture, kind=kind, seed=len(architecture) + len(kind))
    _balance(folder)
    bundle = load_bundle(folder)
    probe, schema = bundle.load_probe(), load_schemas(bundle.schemas)["book"]
    runtime = HFRuntime.load(bundle.runtimes[0])
    present = set()
    for lora in (True, False):
        for normalize in (True, False):
            for utterance in UTTERANCES:
                prompt = probe.builder.build(schema, utterance)
                states = runtime.forward([prompt.ids], ForwardOptions(normalize=normalize, lora=lora))[0]
                mean, expected = reference(folder, utterance, lora=lora, normalize=normalize)
                assert norm_stats(states).mean == pytest.approx(mean, rel=1e-5)
                for slot in probe.predict(prompt, states):
                    said, null, start, end, value = expected[slot.slot]
                    assert slot.null_logits == pytest.approx(null, abs=1e-3)
                    assert (slot.present, slot.pointer.start, slot.pointer.end, slot.pointer_value) == (
                        said,
                        start,
                        end + 1,
                        value,
                    )
                    present.add(said)
    assert present == {True, False}  # both decisions occurred, or the comparison would prove little
