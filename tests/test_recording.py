"""A recording replays what was recorded, says what it does not hold, notices damage, and needs no torch to be read."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from backend.bundle import load_bundle
from backend.cli import main
from backend.errors import BundleError, InputError, RuntimeFault
from backend.plan import Plan
from backend.pool import Pool
from backend.record import record
from backend.recording import Recording
from backend.runtimes.base import Engine, ForwardOptions
from backend.runtimes.hf import HFRuntime
from backend.schema import load_schemas
from backend.store import Store
from benchmarks.synthetic import SeededRuntime, make_bundle, seeded
from tests import tiny

TEXTS = ("fly from Boston to Rome", "ok", "send (-1, -2) to Seattle next Friday")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny.make(tmp_path_factory.mktemp("tiny"))
    slots = {"origin": {"char_start": 9, "char_end": 15, "value": "Boston"}}
    rows = [{"function": "book", "utterance": t, "slots": slots if n == 0 else {}} for n, t in enumerate(TEXTS)]
    (made / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    toml = 'dataset = "set.jsonl"\n' + (made / "bundle.toml").read_text()
    (made / "bundle.toml").write_text(toml)
    assert main(["record", "--bundle", str(made), "--out", str(made / "tiny.recording")]) == 0
    (made / "bundle.toml").write_text(
        toml.replace('dtype = "float32"', 'engine = "recorded"\nrecording = "tiny.recording"')
    )
    return made


def test_it_replays_states_and_predictions_of_the_live_runtime(folder):
    bundle = load_bundle(folder)
    live = HFRuntime.load(load_live(folder))
    probe, schema = bundle.load_probe(), load_schemas(bundle.schemas)["book"]
    with Pool() as pool:
        replay = pool.get(bundle.runtimes[0])
        for options in (ForwardOptions(n, lora) for n in (False, True) for lora in (False, True)):
            for place, text in enumerate(TEXTS):
                prompt = probe.builder.build(schema, text)
                a, b = (runtime.forward([prompt.ids], options)[0].float() for runtime in (live, replay))
                assert (a - b).abs().max() < 2e-3 * a.abs().max()  # float16 has 11 bits
                stored = replay.recording.predictions(
                    replay.recording.arm("hf-fp32", lora=options.lora), place, normalized=options.normalize
                )
                assert [(s.slot, s.value, s.char_span) for s in stored] == [
                    (s.slot, s.value, s.char_span) for s in probe.predict(prompt, a)
                ]
                assert replay.recording.prompt(place).prompt == prompt


def load_live(folder):
    from dataclasses import replace

    from backend.runtimes.base import Engine

    return replace(load_bundle(folder).runtimes[0], engine=Engine.HF, recording="", dtype="float32")


def test_norms_are_of_the_states_before_rounding(folder):
    recording = Recording(folder / "tiny.recording")
    states = HFRuntime.load(load_live(folder)).forward([recording.prompt(2).prompt.ids], ForwardOptions())[0]
    assert np.allclose(recording.norms(recording.arm("hf-fp32", lora=True), 2), states.norm(dim=-1).numpy(), rtol=1e-6)


def test_what_it_does_not_hold_is_named(folder):
    recording = Recording(folder / "tiny.recording")
    with pytest.raises(InputError, match="not recorded"):
        recording.find([1, 2, 3])
    with pytest.raises(InputError, match="does not hold") as refused:
        recording.arm("vllm-awq", lora=True)
    assert "hf-fp32 with LoRA on" in refused.value.remedy


def test_a_changed_byte_is_noticed_in_every_member(folder, tmp_path):
    whole = (folder / "tiny.recording").read_bytes()
    places = Recording(folder / "tiny.recording")._places
    assert len(places) == 4 + 2 * 4  # of two arms
    for start, size in places.values():
        data = bytearray(whole)
        data[start + size // 2] ^= 1
        (tmp_path / "bad.recording").write_bytes(data)
        with pytest.raises(BundleError, match="not a recording that can be used"):
            Recording(tmp_path / "bad.recording")
    (tmp_path / "cut.recording").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="not a recording that can be used"):
        Recording(tmp_path / "cut.recording")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("manifest.json", '{"format": "probe-parity recording", "version": 99}')
    for name in ("text", "zip", "nothing"):
        with pytest.raises(BundleError, match="not a recording"):
            Recording(tmp_path / name)


def test_reading_needs_neither_torch_nor_transformers(folder):
    code = f"""
import sys
for name in ("torch", "transformers", "tokenizers", "safetensors", "peft", "vllm"): sys.modules[name] = None
import backend.runtimes.recorded
from pathlib import Path
from backend.recording import Recording
found = Recording(Path({str(folder / "tiny.recording")!r}))
print(len(found), found.states(0, 0).dtype, found.predictions(0, 0, normalized=True)[0].slot, found.prompt(0).gold[0].value)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["3", "float16", "date", "Boston"], done.stderr


def test_a_recorded_run_equals_the_live_one(capsys, folder, tmp_path):
    """Without LoRA and with it, raw and normalised: the same answers from the file as from the model."""
    cells = []
    toml = (folder / "bundle.toml").read_text()
    for text in (toml, toml.replace('engine = "recorded"\nrecording = "tiny.recording"', 'dtype = "float32"')):
        (folder / "bundle.toml").write_text(text)
        store = tmp_path / f"{len(cells)}.sqlite"
        assert main(["evaluate", "--bundle", str(folder), "--store", str(store), "--matrix", "--json"]) == 0
        with Store(store) as opened:
            cells.append([(r.normalize, r.lora, r.example, r.slot, r.value) for r in opened.rows(1)])
    (folder / "bundle.toml").write_text(toml)
    assert cells[0] == cells[1] and len(cells[0]) == 4 * 3 * len(TEXTS)


def test_a_state_beyond_float16_is_refused_and_nothing_is_left(tmp_path):
    class Large(SeededRuntime):
        def _states(self, row, lora):
            return super()._states(row, lora) * 1e6

    bundle = load_bundle(make_bundle(tmp_path / "bundle"))
    plan = Plan(bundle, bundle.runtimes, (True,), (False,), tmp_path / "bundle" / "set.jsonl", limit=3)
    with pytest.raises(RuntimeFault, match="float16"):
        record(plan, lambda spec: Large(spec, seeded(spec).info), tmp_path / "out.recording")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_address_of_a_server_is_not_recorded(tmp_path):
    bundle = load_bundle(make_bundle(tmp_path / "bundle"))
    spec = replace(bundle.runtimes[0], engine=Engine.VLLM, recording="")
    plan = Plan(bundle, (spec,), (True,), (False,), tmp_path / "bundle" / "set.jsonl", limit=3)
    info = replace(seeded(spec).info, device="http://10.1.2.3:8000")
    record(plan, lambda spec: SeededRuntime(spec, info), tmp_path / "out.recording")
    assert Recording(tmp_path / "out.recording").arms[0].device == "a vLLM server"
