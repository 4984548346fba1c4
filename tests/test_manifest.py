"""A sealed bundle: every change of a file is named, by verify and by what loads it; an unsealed one loads as before."""

import json

import pytest

from backend import manifest
from backend.bundle import load_bundle
from backend.cli import main
from backend.errors import BackendError
from backend.verify import find_problems
from tests import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tiny.make(tmp_path_factory.mktemp("whole"))
    row = {"function": "book", "utterance": "fly to Rome", "slots": {}}
    (folder / "set.jsonl").write_text(json.dumps(row))
    (folder / "bundle.toml").write_text('dataset = "set.jsonl"\n' + (folder / "bundle.toml").read_text())
    assert main(["bundle", "seal", str(folder)]) == 0
    return folder


def test_it_lists_what_the_bundle_uses_with_sizes_and_digests(bundle):
    said = json.loads((bundle / "manifest.json").read_text())
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(said["files"]) == names and "base/model.safetensors" in names and "set.jsonl" in names
    assert said["files"]["set.jsonl"]["size"] == (bundle / "set.jsonl").stat().st_size
    load_bundle(bundle)
    assert main(["bundle", "verify", str(bundle)]) == 0


def _flip(name):
    def change(bundle):
        data = bytearray((bundle / name).read_bytes())
        data[-1] ^= 1
        (bundle / name).write_bytes(data)

    return change


def _cut(bundle):
    (bundle / "probe_heads.pt").write_bytes((bundle / "probe_heads.pt").read_bytes()[:-1])


CHANGES = {
    "a bit of the base": (_flip("base/model.safetensors"), "base/model.safetensors"),
    "a bit of the set": (_flip("set.jsonl"), "set.jsonl"),
    "the end of the heads": (_cut, "probe_heads.pt"),
    "a setting": (lambda b: (b / "bundle.toml").write_text((b / "bundle.toml").read_text() + " "), "bundle.toml"),
    "a file more": (lambda b: (b / "base/added_tokens.json").write_text("{}"), "base/added_tokens.json"),
    "a file less": (lambda b: (b / "base/tokenizer_config.json").unlink(), "base/tokenizer_config.json"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_named_when_it_is_loaded_and_when_it_is_verified(bundle, name, monkeypatch):
    change, file = CHANGES[name]
    load_bundle(bundle)
    change(bundle)
    with pytest.raises(BackendError) as refused:
        load_bundle(bundle)
    assert file in str(refused.value) and "seal" in refused.value.remedy
    assert any(p.file == "manifest.json" and file in f"{p.what} {p.found}" for p in find_problems(bundle))


def test_the_owner_seals_it_again(bundle, capsys):
    _flip("set.jsonl")(bundle)
    assert main(["bundle", "seal", str(bundle)]) == 0 and "files" in capsys.readouterr().out
    load_bundle(bundle)


WRONG = {
    "no JSON": "{",
    "another format": '{"format": "x", "version": 1, "files": {}}',
    "a path out": '{"format": "probe-parity bundle", "version": 1, "files": {"../x": {"size": 1, "sha256": "0"}}}',
    "no digest": '{"format": "probe-parity bundle", "version": 1, "files": {"set.jsonl": {"size": 1}}}',
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_cannot_be_read_is_no_licence(bundle, name):
    (bundle / "manifest.json").write_text(WRONG[name])
    with pytest.raises(BackendError, match=r"manifest\.json cannot be used"):
        load_bundle(bundle)


def test_a_large_file_is_hashed_once_and_again_when_it_changes_or_is_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_PARITY_STORE", str(tmp_path / "store"))
    large = tmp_path / "large"
    large.write_bytes(b"x" * 2**21)
    manifest.write_manifest(tmp_path, [large])
    hashed = []
    digest = manifest.hashlib.file_digest
    monkeypatch.setattr(manifest.hashlib, "file_digest", lambda *a: hashed.append(1) or digest(*a))
    assert manifest.check_manifest(tmp_path, [large]) == [] and not hashed
    assert manifest.check_manifest(tmp_path, [large], again=True) == [] and len(hashed) == 1
    large.write_bytes(b"y" * 2**21)
    assert len(manifest.check_manifest(tmp_path, [large])) == 1 and len(hashed) == 2
