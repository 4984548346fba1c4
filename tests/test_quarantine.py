"""Files that end or exhaust the process that reads them end a child, and are named; unchanged ones are read once."""

import json
import os
import subprocess
import sys
import time
import zipfile

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from backend import quarantine
from backend.bundle import load_bundle
from backend.cli import main
from backend.errors import BackendError, BundleError
from backend.runtimes.load import load_runtime
from backend.verify import verify_bundle


def _tokenizer(**parts):
    def change(bundle):
        path = bundle / "base/tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))

    return change


def _zip_bomb(bundle):
    """Heads whose archive is a megabyte and unpacks to 270."""
    d = 8192
    heads = {"pointer_head": {"W_start.weight": torch.zeros(d, d), "W_end.weight": torch.zeros(1)}}
    torch.save(heads, bundle / "big.pt")
    with (
        zipfile.ZipFile(bundle / "big.pt") as stored,
        zipfile.ZipFile(bundle / "probe_heads.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    (bundle / "big.pt").unlink()
    assert (bundle / "probe_heads.pt").stat().st_size < 10 * 2**20


_MANY = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 500_000}
_NESTED = {"type": "Split", "pattern": {"Regex": "(?:a|a|a)*$x|(a+)+(a+)+(a+)+!"}, "behavior": "Isolated", "invert": False}
BOMBS = {
    "a normaliser that multiplies text": (_tokenizer(normalizer=_MANY), "base/tokenizer.json"),
    "a pattern that backtracks for ever": (_tokenizer(pre_tokenizer=_NESTED), "base/tokenizer.json"),
    "a model that is none": (_tokenizer(model={"type": "BPE", "vocab": {}, "merges": [["x", "y"]]}), "base/tokenizer.json"),
    "an archive that unpacks to much": (_zip_bomb, "probe_heads.pt"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_take_the_app_down_is_one_message_that_names_the_file(bundle, name, monkeypatch):
    monkeypatch.setattr(quarantine, "SECONDS", 2)
    monkeypatch.setattr(quarantine, "MEMORY_BYTES", 250 * 2**20)
    set_it, file = BOMBS[name]
    set_it(bundle)
    started = time.monotonic()
    with pytest.raises(BundleError) as refused:
        load_bundle(bundle).load_probe()
    assert file in str(refused.value) and refused.value.found and refused.value.remedy
    assert time.monotonic() - started < 60


def test_verify_names_what_ended_it_and_the_rest(bundle, monkeypatch):
    monkeypatch.setattr(quarantine, "MEMORY_BYTES", 250 * 2**20)
    (bundle / "bundle.toml").write_text('bases = "x"\n' + (bundle / "bundle.toml").read_text())
    _tokenizer(normalizer=_MANY)(bundle)
    problems = verify_bundle(bundle)
    assert any("bases" in problem.found for problem in problems)
    assert [p for p in problems if p.file == "base/tokenizer.json" and "not safe to load" in p.what], problems


def _nan(file, name):
    def change(bundle):
        tensors = load_file(bundle / file)
        tensors[name].view(-1)[-1] = float("nan")
        save_file(tensors, bundle / file, metadata={"format": "pt"})

    return change


NANS = {
    "base": _nan("base/model.safetensors", "model.layers.1.mlp.up_proj.weight"),
    "adapter": _nan("adapter/adapter_model.safetensors", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
}


@pytest.mark.parametrize("part", NANS)
def test_weights_that_are_not_finite_are_refused_with_their_name_before_a_model_is_made(bundle, part):
    NANS[part](bundle)
    with pytest.raises(BundleError, match="NaN") as refused:
        load_runtime(load_bundle(bundle).runtimes[0])
    assert "proj" in refused.value.found and f"{part}/" in refused.value.found


def test_heads_that_are_not_finite_are_refused_with_their_name(bundle):
    heads = torch.load(bundle / "probe_heads.pt", weights_only=True)
    heads["pointer_head"]["W_end.weight"][3, 4] = float("inf")
    torch.save(heads, bundle / "probe_heads.pt")
    with pytest.raises(BundleError, match=r"probe_heads\.pt") as refused:
        load_bundle(bundle).load_probe()
    assert "pointer_head.W_end.weight holds NaN or infinity" in refused.value.found


def test_unchanged_files_are_examined_once_and_changed_ones_again(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_PARITY_STORE", str(tmp_path / "store"))
    asked = []
    monkeypatch.setattr(quarantine, "_ask", lambda request, seconds: asked.append(request["paths"]) or {"problems": []})
    base, heads = bundle / "base", bundle / "probe_heads.pt"
    quarantine.require_sound(base, heads, "owner/name", None)
    quarantine.require_sound(str(base), heads)
    assert asked == [[str(base)], [str(heads)]] and quarantine.is_known(base, heads)
    before = (base / "tokenizer.json").stat()
    (base / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes().replace(b"true", b"null", 1))
    os.utime(base / "tokenizer.json", ns=(before.st_atime_ns, before.st_mtime_ns))  # as somebody would who hides it
    quarantine.require_sound(base, heads)
    assert asked[2:] == [[str(base)]]
    monkeypatch.setattr("backend.file_stamps._known", {})  # as in another process
    assert quarantine.is_known(base, heads)


def test_a_folder_that_cannot_be_written_only_costs_time(bundle, monkeypatch):
    monkeypatch.setenv("PROBE_PARITY_STORE", "/proc/nowhere")
    quarantine.require_sound(bundle / "base")
    assert quarantine.is_known(bundle / "base")


def test_the_child_may_be_lost(bundle):
    quarantine.require_sound(bundle / "base")
    quarantine._child._process.kill()
    quarantine._child._process.wait()
    quarantine.require_sound(bundle / "adapter")
    assert quarantine.is_known(bundle / "adapter")


def test_no_child_is_left_however_its_starter_ends(bundle):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom backend import quarantine\n"
        f"quarantine.require_sound(Path({str(bundle / 'probe_heads.pt')!r}))\n"
        "print(quarantine._child._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_hostile_bundle_is_one_line_of_the_command_line(bundle, capsys, monkeypatch):
    monkeypatch.setattr(quarantine, "MEMORY_BYTES", 250 * 2**20)
    _tokenizer(normalizer=_MANY)(bundle)
    command = ["predict", "--bundle", str(bundle), "--function", "book", "--utterance", "fly to Rome"]
    assert main(command) == BackendError.exit_code
    said = capsys.readouterr().err
    assert "base/tokenizer.json" in said and "Traceback" not in said and len(said.splitlines()) == 1
