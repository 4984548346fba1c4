"""A runtime that replays a recording: no model, no engine; prompts that were not recorded are a named error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import BundleError
from backend.norms import normalize
from backend.recording import Recording
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec

if TYPE_CHECKING:
    from torch import Tensor


class RecordedRuntime(Runtime):
    """Looks prompts up by token ids. Calls may overlap."""

    def __init__(self, spec: RuntimeSpec, info: RuntimeInfo, recording: Recording) -> None:
        super().__init__(spec, info)
        self.recording = recording

    @classmethod
    def load(cls, spec: RuntimeSpec) -> RecordedRuntime:
        """Open ``spec.recording`` and find the runtime of the spec's name in it.

        Raises:
            BundleError: no such file, a damaged one, or one that does not hold this runtime.
        """
        recording = Recording(Path(spec.recording))
        arms = [arm for arm in recording.arms if arm.runtime == spec.name]
        if not arms:
            held = ", ".join(dict.fromkeys(arm.runtime for arm in recording.arms))
            raise BundleError(
                f"{recording.path.name} holds no runtime {spec.name!r}",
                found=held,
                remedy="Give the runtime one of these names in bundle.toml.",
            )
        info = RuntimeInfo(
            device=f"recorded on {arms[0].device}",
            dtype=arms[0].dtype,
            d_model=recording.d_model,
            max_tokens=recording.max_tokens,
            has_adapter=any(arm.lora for arm in arms),
            versions=arms[0].versions,
        )
        return cls(spec, info, recording)

    def _forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        import torch

        arm = self.recording.arm(self.spec.name, lora=options.lora)
        # a copy: the file is mapped read-only, and torch would write to it
        rows = [torch.from_numpy(self.recording.states(arm, self.recording.find(row)).copy()) for row in ids]
        return [normalize(states) for states in rows] if options.normalize else rows

    def _close(self) -> None:
        pass  # the mapping goes with the last array
