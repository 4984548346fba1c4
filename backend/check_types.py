"""The value every check gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """A health verdict."""

    name: str
    passed: bool
    observed: str
    expected: str
    remedy: str = ""  # what to do if it failed
