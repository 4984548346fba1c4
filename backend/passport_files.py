"""A passport on disk: its JSON, one HTML page, and a pytest file that checks the deployment again in a pipeline."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment

from backend.answers import ABSENT
from backend.errors import InputError
from backend.passport import Passport, causes
from backend.report import margin_text

_TEST = '''"""Checks the deployment again that passport.json describes: `python -m pytest {name}`.

The bundle is looked for where it was, relative to this file, or in PROBE_PARITY_BUNDLE. Needs the package `backend`.
"""

import os
from pathlib import Path

import pytest

from backend.recheck import Deployment

RUNTIMES = {runtimes}


@pytest.fixture(scope="module")
def deployment():
    moved = os.environ.get("PROBE_PARITY_BUNDLE")
    with Deployment(Path(__file__).with_name("passport.json"), Path(moved) if moved else None) as opened:
        yield opened


def test_files_are_those_that_were_judged(deployment):
    assert deployment.changed_files() == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_health(deployment, runtime):
    assert deployment.failed_checks(runtime) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_are_those_that_were_judged(deployment, runtime):
    changed, allowed = deployment.changed_answers(runtime)
    assert len(changed) <= allowed, changed
'''


def write_passport(passport: Passport, out: Path) -> tuple[Path, ...]:
    """Write passport.json, passport.html and test_deployment.py into a folder; raises `InputError` if that fails."""
    name = "test_deployment.py"
    contents = {
        "passport.json": json.dumps(asdict(passport), ensure_ascii=False, indent=1) + "\n",
        "passport.html": as_html(passport),
        name: _TEST.format(name=name, runtimes=json.dumps([runtime.name for runtime in passport.runtimes])),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in contents.items():
            (out / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError("The passport cannot be written", found=str(error), remedy="Name another --out.") from error
    return tuple(out / file for file in contents)


def as_html(passport: Passport) -> str:
    """Return one page that needs nothing from elsewhere, runs no script, and prints."""
    template = (Path(__file__).parent / "passport.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    trained = [cell for cell in passport.report["cells"] if cell["lora"] and not cell["normalize"] and cell["ci95"]]
    low = min((cell["ci95"][0] for cell in trained), default=0.0)
    high = max((cell["ci95"][1] for cell in trained), default=1.0)
    return environment.from_string(template).render(
        absent=ABSENT,
        margin_text=margin_text,
        passport=passport,
        report=passport.report,
        trained=trained,
        low=low,
        width=max(1e-9, high - low),
        causes={runtime.name: causes(runtime) for runtime in passport.runtimes},
    )
