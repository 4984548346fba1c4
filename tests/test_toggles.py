"""``python -m benchmarks.toggles`` sees a runtime that reloads for a toggle, and leaves one alone that does not."""

import time

import pytest
import torch

from backend.runtimes.base import Engine, Runtime, RuntimeInfo, RuntimeSpec
from benchmarks.toggles import PROMISED_MS, measure


class Slow(Runtime):
    """Answers in no time, but for what a change of options costs it."""

    def __init__(self, change_s):
        super().__init__(RuntimeSpec("slow", Engine.HF, "b", "float32"), RuntimeInfo("cpu", "float32", 2, 64, True))
        self._change_s, self._last = change_s, None

    def _forward(self, ids, options):
        if options != self._last:
            time.sleep(self._change_s)
        self._last = options
        return [torch.ones(len(row), 2) for row in ids]

    def _close(self):
        pass


@pytest.mark.parametrize("toggle", ["normalize", "lora"])
def test_a_reload_shows_in_the_first_request_after_the_toggle(toggle):
    assert measure(Slow(0.2), (1, 2, 3), toggle, n=8)["added_p50"] > 2 * PROMISED_MS
    assert measure(Slow(0.0), (1, 2, 3), toggle, n=8)["added_p50"] < PROMISED_MS
