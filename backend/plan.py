"""What an evaluation runs, and how it is shared out over passes of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.bundle import Bundle, load_bundle
from backend.dataset import Format
from backend.memory import estimate_bytes
from backend.runtimes.base import RuntimeSpec
from backend.store_schema import CellKey


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evaluation runs."""

    bundle: Bundle
    specs: tuple[RuntimeSpec, ...]
    loras: tuple[bool, ...]
    normalizes: tuple[bool, ...]
    dataset: Path
    format: Format | None = None
    limit: int | None = None
    skip_bad: bool = False  # leave bad rows of the dataset out and count them, instead of refusing the set

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Plan:
        """Make the plan that ``settings`` describe; raises as `load_bundle` and `Bundle.runtime` do."""
        bundle = load_bundle(Path(settings["bundle"]))
        return cls(
            bundle=bundle,
            specs=tuple(bundle.runtime(name) for name in settings["runtimes"]),
            loras=tuple(settings["loras"]),
            normalizes=tuple(settings["normalizes"]),
            dataset=Path(settings["dataset"]),
            format=Format(settings["format"]) if settings["format"] else None,
            limit=settings["limit"],
            skip_bad=settings["skip_bad"],
        )

    def settings(self) -> dict[str, object]:
        """Return what a later process needs to make the same plan."""
        return {
            "bundle": str(self.bundle.folder),
            "runtimes": [spec.name for spec in self.specs],
            "loras": list(self.loras),
            "normalizes": list(self.normalizes),
            "dataset": str(self.dataset),
            "format": self.format and str(self.format),
            "limit": self.limit,
            "skip_bad": self.skip_bad,
        }

    def cells(self) -> list[CellKey]:
        """Return all cells of the matrix."""
        return [CellKey(s.name, n, lora) for s in self.specs for n in self.normalizes for lora in self.loras]


def share_passes(specs: Sequence[RuntimeSpec], budget_bytes: int) -> list[list[str]]:
    """Return the names of the runtimes that one pass of the dataset serves, pass by pass.

    One pass serves all runtimes that fit into memory together: a pass over runtimes that do not would unload and load
    them anew for every part of the dataset.
    """
    passes: list[list[str]] = []
    left = 0
    for spec in specs:
        need = estimate_bytes(spec)
        if not passes or need > left:
            passes.append([])
            left = budget_bytes
        passes[-1].append(spec.name)
        left -= need
    return passes
