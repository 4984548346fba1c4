"""A deployment against its passport: which files, checks and answers are no longer what was judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.answers import answer_text
from backend.bounded_read import read_text
from backend.bundle import load_bundle
from backend.errors import InputError
from backend.health import check_spec
from backend.passport import bundle_files, keep_answers
from backend.pool import Pool


class Deployment:
    """The bundle that a passport describes, with its runtimes loaded when they are asked.

    Args:
        passport: its JSON file.
        bundle: where the bundle is now; default where it was, relative to the passport.

    Raises:
        InputError: the file is no passport.
        BundleError: as `load_bundle` does.
    """

    def __init__(self, passport: Path, bundle: Path | None = None) -> None:
        self._content = _read(passport)
        self._bundle = load_bundle(bundle or (passport.parent / self._content["bundle"]).resolve())
        self._probe = self._bundle.load_probe()
        self._pool = Pool()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def changed_files(self) -> list[str]:
        """Return the files that are gone, new or different."""
        then, now = self._content["files"], bundle_files(self._bundle)
        return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))

    def failed_checks(self, runtime: str) -> list[str]:
        """Return the health checks that do not hold, with what was observed and what to do."""
        checks = check_spec(self._pool, self._bundle, self._probe, self._bundle.runtime(runtime))
        return [f"{c.name}: {c.observed}, expected {c.expected}. {c.remedy}" for c in checks if not c.passed]

    def changed_answers(self, runtime: str) -> tuple[list[str], int]:
        """Return the slots that are read otherwise than in the passport, and how many may be; raises as engines do."""
        then = next(entry for entry in self._content["runtimes"] if entry["name"] == runtime)["answers"]
        now = keep_answers(self._probe, self._bundle, self._bundle.runtime(runtime), self._pool)
        changed = [
            f"{answer.utterance!r}, {slot}: {answer_text(value, quoted=True)}, "
            f"was {answer_text(before['slots'].get(slot), quoted=True)}"
            for before, answer in zip(then, now, strict=True)
            for slot, value in answer.slots.items()
            if before["slots"].get(slot) != value
        ]
        n = sum(len(answer.slots) for answer in now)
        return changed, int(self._content["max_changed"] * n)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
        if {"bundle", "files", "runtimes", "max_changed"} <= content.keys():
            return dict(content)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError("The passport cannot be read", found=str(error)[:160], remedy="Make it again.") from error
    raise InputError("This is no passport", found=path.name, remedy="Name the passport.json of a passport.")
