"""AutoAWQ as it runs where it cannot be imported: in another interpreter."""

import sys
from pathlib import Path

import pytest

from backend.awq import environment, quantize
from backend.awq.rescale import load_scales
from backend.errors import InputError, PrerequisiteError
from backend.health import check_prompts


@pytest.mark.timeout(280)
def test_quantising_elsewhere_gives_a_checked_checkpoint(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize.autoawq, "is_installed", lambda: False)
    monkeypatch.setattr(quantize, "autoawq_python", lambda: Path(sys.executable))
    prompts = check_prompts(demo, demo.load_probe().builder)
    report = quantize.quantize_base(Path(demo.base), tmp_path / "awq", prompts)
    assert report.n_tokens == sum(map(len, prompts)) and abs(report.loss_change) < 0.05
    scales, captured = load_scales(Path(demo.base), tmp_path / "awq")
    assert captured and len(scales) >= 12 and report.max_scale_change > 0
    assert not (tmp_path / "awq.partial").exists()


def test_too_little_text_and_a_folder_that_is_there_are_refused(demo, tmp_path):
    with pytest.raises(InputError, match="Too little"):
        quantize.quantize_base(Path(demo.base), tmp_path / "awq", [(1, 2, 3)])
    with pytest.raises(InputError, match="exists"):
        quantize.quantize_base(Path(demo.base), tmp_path, [(1, 2, 3)] * 400)


def test_the_environment_is_made_once_with_the_pins_of_this_project(tmp_path, monkeypatch, capsys):
    steps = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment.venv, "create", lambda folder, **_: folder.mkdir(parents=True))
    monkeypatch.setattr(environment, "_pip", lambda python, step: steps.append(step))
    python = environment.autoawq_python()
    assert python == environment.autoawq_python() and len(steps) == 3 and str(python).startswith(str(tmp_path))
    assert [pin for pin in steps[0] if pin.startswith("torch==")] and "autoawq==0.2.9" in steps[2]
    assert "making an environment" in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "_pins", lambda name: ["torch==0.0.0.nowhere"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PrerequisiteError, match="cannot be made") as raised:
        environment.autoawq_python()
    assert "No matching distribution" in raised.value.found
