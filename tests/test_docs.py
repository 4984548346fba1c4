"""README and docs: every command in them is real, every link and every test they name exists, tables are the files'.

Commands that end within seconds on the demo run for real; the others (an engine to start, minutes to measure, a gated base,
a browser to keep open) are held against their parsers: `make -n` for make, argparse for ours, vLLM's fields for its own.
"""

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from backend.bundle import DEMO
from backend.cli import COMMANDS, main
from backend.results import load_results
from demo import results as demo_results
from docs import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# run for real, by how they begin
FAST = ("predict", "diagnose", "check --runtime hf-bf16", "bundle")


def commands():
    """Return every line of every shell block with the document it is in."""
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            found += [(path.name, line) for line in block.strip().splitlines()]
    return found


def parse(words):
    """Hold the words of `python -m backend` against its parsers; argparse leaves with 2 where they do not fit."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    for name in COMMANDS:
        importlib.import_module(f"backend.commands.{name}").add_parser(subparsers)
    return parser.parse_args(words)


def test_documents_have_commands():
    assert len(commands()) >= 20


@pytest.mark.parametrize("document, line", commands(), ids=lambda value: value[:60])
def test_every_command_is_real(document, line, capsys, tmp_path, monkeypatch):
    words = shlex.split(line)
    while "=" in words[0]:
        assert words.pop(0).split("=")[0].removeprefix("PROBE_PARITY_") in ("BUNDLE", "BUNDLES", "RECORDING", "SERVERS")
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["vllm", "serve"]:
        known = vllm_arguments()
        assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} <= known
    elif words[:3] == ["python", "-m", "backend"]:
        backend(words[3:], capsys, tmp_path, monkeypatch)
    elif words[:2] == ["python", "-m"] and words[2].startswith(("benchmarks.", "demo.")):
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file()  # minutes each
    elif words[:3] == ["python", "-m", "pytest"]:
        pass  # the file is made by `passport`; tests/test_passport.py runs such a one
    else:
        pytest.fail(f"{document}: no test knows how to hold {line!r}")


def backend(words, capsys, tmp_path, monkeypatch):
    parse(words)
    line = " ".join(words)
    if not line.startswith(FAST):
        return
    monkeypatch.chdir(tmp_path)
    code = main(words)
    printed = capsys.readouterr()
    if line.startswith("bundle init"):
        assert code in (0, 3) and "wrote" in printed.out and list(tmp_path.glob("*/bundle.toml"))
    elif line.startswith("bundle verify"):
        assert code == 2 and "No such folder" in printed.err  # the reader's own folder
    elif "--bundle" in words:
        assert code == 2 and "No bundle.toml" in printed.err
    else:
        assert code == 0 and printed.out


def vllm_arguments():
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    served = {"lora_modules", "host", "port"}  # of the HTTP server, not of the engine
    return {field.name for field in fields(AsyncEngineArgs)} | served


def test_modules_that_documents_name_are_there():
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    for module in set(re.findall(r"python -m ((?:docs|demo|benchmarks|tests)[\w.]+)", text)):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_the_reference_of_commands_is_what_the_parsers_say():
    written = cli.FILE.read_text(encoding="utf-8")
    assert written.split() == cli.reference().split(), "run `python -m docs.cli`"


def test_readmes_table_is_the_demos_results():
    results = load_results(DEMO)
    assert results is not None and demo_results.table(results) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_promises_name_tests_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 10
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), (file, test)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_local_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_no_path_of_a_machine_is_written_down():
    for path in DOCUMENTS:
        assert not re.search(r"(?<![\w.])/(?:home|root|work|Users)/", path.read_text(encoding="utf-8")), path.name
