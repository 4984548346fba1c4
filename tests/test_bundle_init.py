"""`bundle init` from what a training script leaves; nothing is overwritten; the list of bundles holds no foreign path."""

import shutil

import pytest

from backend.bundle import load_bundle
from backend.bundle_init import BundlePlan, bundle_toml
from backend.bundles import list_bundles
from backend.cli import main
from backend.runtimes.base import Engine
from tests import tiny

UTTERANCE = "fly from Boston to Seattle"


@pytest.fixture
def folder(tmp_path):
    made = tiny.make(tmp_path / "mine")
    (made / "bundle.toml").unlink()
    return made


def test_what_training_left_becomes_a_bundle_that_answers(capsys, folder):
    assert main(["bundle", "init", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no problems"
    bundle = load_bundle(folder)
    assert bundle.base == str(folder / "base") and bundle.adapter == str(folder / "adapter")
    assert main(["predict", "--bundle", str(folder), "--function", "book", "--utterance", UTTERANCE]) == 0


def test_a_bundle_is_never_overwritten(capsys, folder):
    (folder / "bundle.toml").write_text("mine")
    assert main(["bundle", "init", str(folder), "--base", "base"]) == 2
    assert "already" in capsys.readouterr().err and (folder / "bundle.toml").read_text() == "mine"


def test_problems_are_told_and_the_file_stays_to_be_mended(capsys, folder):
    (folder / "probe_heads.pt").unlink()
    assert main(["bundle", "init", str(folder)]) == 3
    assert "probe_heads.pt" in capsys.readouterr().out and (folder / "bundle.toml").exists()


def test_without_a_base_there_is_one_message(capsys, tmp_path):
    assert main(["bundle", "init", str(tmp_path / "new")]) == 2
    assert "--base" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_questions_take_what_was_found_on_a_bare_return(capsys, folder, monkeypatch):
    answers = iter(["", "", "", "", "", "", ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert main(["bundle", "init", str(folder)]) == 0
    assert load_bundle(folder).adapter == str(folder / "adapter")


def test_servers_become_runtimes(folder):
    urls = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
    code = main(["bundle", "init", str(folder), "--server", urls[0], "--server", urls[1], "--served-model", "llama"])
    assert code == 0
    spec = load_bundle(folder).runtime("vllm-fp16")
    assert (spec.engine, list(spec.urls), spec.remote_model) == (Engine.VLLM, urls, "llama")


def test_files_elsewhere_and_odd_names_are_written_as_toml(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_PARITY_ROOTS", str(tmp_path))
    odd = tmp_path / 'he"ads é.pt'
    shutil.move(folder / "probe_heads.pt", odd)
    assert main(["bundle", "init", str(folder), "--heads", str(odd)]) == 0
    assert load_bundle(folder).heads == odd


def test_hub_ids_stay_as_they_are(tmp_path):
    text = bundle_toml(BundlePlan("meta-llama/Llama-3.1-8B-Instruct", awq="org/awq"), tmp_path)
    assert 'base = "meta-llama/Llama-3.1-8B-Instruct"' in text and 'awq = "org/awq"' in text


def test_only_folders_directly_in_the_configured_one_are_listed(tmp_path, monkeypatch):
    for name in ("a", "b", "deep/c", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        (tmp_path / name / "bundle.toml").touch()
    monkeypatch.setenv("PROBE_PARITY_BUNDLES", str(tmp_path))
    monkeypatch.setenv("PROBE_PARITY_BUNDLE", str(tmp_path / "b"))
    assert list(list_bundles()) == ["b", "a"]
    monkeypatch.delenv("PROBE_PARITY_BUNDLE")
    assert list(list_bundles()) == ["demo", "a", "b"]
