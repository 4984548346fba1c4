"""Errors that a person can act on: what was wrong, what was found, what to do."""

from __future__ import annotations

from pathlib import Path


class BackendError(Exception):
    """An expected failure. Shown as one message, never as a traceback.

    Args:
        what: what was wrong, one sentence without a full stop.
        found: what was there instead of what was expected.
        remedy: what the reader can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, found: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        found = f" (found {self.found})" if self.found else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.what}{found}.{remedy}"


class InputError(BackendError):
    """Text, options or a data file that cannot be used as given."""


class BundleError(BackendError):
    """A bundle that is missing something or contradicts itself."""


class PrerequisiteError(BackendError):
    """Something that must be installed or started first."""


class RuntimeFault(BackendError):
    """A runtime that could not answer, or answered with something that must not be scored.

    Args:
        what, found, remedy: as in `BackendError`.
        log: the file in which its server says more.
    """

    def __init__(self, what: str, *, found: str = "", remedy: str = "", log: Path | None = None) -> None:
        super().__init__(what, found=found, remedy=remedy)
        self.log = log


class RuntimeTimeout(RuntimeFault):
    """A runtime that did not answer within its deadline."""


class CheckFailed(BackendError):
    """A check or gate that did not hold; the work itself went well."""

    exit_code = 3
